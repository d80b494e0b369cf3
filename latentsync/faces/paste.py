"""Puts a generated crop back into its frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes
from latentsync.faces.align import crop_bounds, from_region, mouth_mask, square_from_window, window_px
from latentsync.types import AffineFrame, FrameImage, Patched, Picture, unpatched

FEATHER = 0.05  # width of the soft border inside the mouth region, as a share of the crop's side
LARGEST_SHIFT = 20.0  # grey levels by which the colour of the crop may be moved towards the frame's
STRAY_LEVELS = 18.0  # from the median difference in colour: what is farther away hardly counts
SMOOTH_PX = 64  # at this size colour differences are smoothed, and measured unless a caller wants them larger
OUTLINE_PX = 128  # at this size the face's outline is drawn, unless a caller wants it larger
# Shares of the side; the far one is for where no skin is near.
SMOOTH_SIGMAS, FAR_WEIGHT = (0.1, 0.3), 0.05
AROUND_MOUTH = 0.1  # of the side: how far lips and chin move
BELOW_CHIN = 0.07  # of the crop's side: how far a jaw moves when the mouth opens
CHIN = slice(5, 12)  # of the outline: what moves down with the mouth; the jaw's corners hardly do
LIPS = slice(48, 60)  # their outer outline
OUTLINE = (*range(17), *range(26, 16, -1))  # of the 68 points: along the jaw, back over the brows

Pixels = NDArray[np.float32] | NDArray[np.uint8]


def paste(
    picture: Picture,
    face_crop: Pixels,
    affine: AffineFrame,
    *,
    region: Literal["mouth", "crop"] = "mouth",
    feather: float = FEATHER,
    within: NDArray[np.float32] | None = None,
) -> Patched:
    """The frame's picture with the square crop (h w c), 0..255, in its place.

    Args:
        picture: of the frame; it stays as it is.
        face_crop: the generated crop, uint8 or float32 in 0..255.
        affine: where it was cut.
        region: "mouth" changes only what was generated; "crop" changes the whole rectangle, as released.
        feather: soft border inside the mouth region, as a share of the crop's side.
        within: (h w) in crop pixels, 0..1: "mouth" changes nothing where it is 0; see `face_region`.

    Source: ours for "mouth"; "crop" as in the official restoration.
    """
    expect_axes(face_crop, "h w c", h=affine.resolution, w=affine.resolution, c=3)
    if region == "crop":
        size = window_px(affine.resolution)
        shrinks = size[0] < affine.resolution
        window = cv2.resize(
            np.asarray(face_crop, np.float32),
            size,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
        )
        return paste_window(picture, np.asarray(window, np.float32), affine)
    shown = soft_mouth(affine.resolution, feather)
    return _paste_mouth(picture, face_crop, affine, shown if within is None else shown * within)


def paste_window(picture: Picture, window: NDArray[np.float32], affine: AffineFrame) -> Patched:
    """The frame's picture with the whole upright window (h w c), 0..255, blended in at its border.

    Source: the official restoration: the border is eroded by a twentieth of the side of the pasted area and
    blurred over the same width.
    """
    width, height = window_px(affine.resolution)
    expect_axes(window, "h w c", h=height, w=width, c=3)
    left, top, right, bottom = crop_bounds(affine, picture.shape[1], picture.shape[0], margin_px=3)
    if right <= left or bottom <= top:
        return unpatched(picture)
    matrix, size = from_region(affine.crop_from_frame, left, top), (right - left, bottom - top)
    face = _sample(window, matrix, size)
    inside = _sample(np.ones((height, width), np.float32), matrix, size)
    inside = np.asarray(cv2.erode(inside, np.ones((2, 2), np.float32)), np.float32)
    edge = int(float(inside.sum()) ** 0.5) // 20
    soft = inside
    if edge:
        core = cv2.erode(inside, np.ones((2 * edge, 2 * edge), np.float32))
        soft = np.asarray(cv2.GaussianBlur(core, (2 * edge + 1, 2 * edge + 1), 0), np.float32)
    old = picture[top:bottom, left:right].astype(np.float32)
    blended = soft[..., None] * (inside[..., None] * face) + (1 - soft[..., None]) * old
    return Patched(picture, left, top, np.clip(blended, 0, 255).astype(np.uint8))


def _paste_mouth(
    picture: Picture,
    face_crop: Pixels,
    affine: AffineFrame,
    shown: NDArray[np.float32],
) -> Patched:
    height, width = picture.shape[:2]
    left, top, right, bottom = crop_bounds(affine, width, height, margin_px=1)
    if right <= left or bottom <= top:
        return unpatched(picture)
    matrix = square_from_window(affine.resolution) @ np.vstack([affine.crop_from_frame, [0, 0, 1]])
    weight = _sample(
        shown,
        from_region(matrix[:2], left, top),
        (right - left, bottom - top),
    )
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    if not len(rows):
        return unpatched(picture)
    weight = weight[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, None]
    left, top = left + int(columns[0]), top + int(rows[0])
    size = (weight.shape[1], weight.shape[0])
    # 8-bit cubic sampling is forty times faster than float, and half a grey level is below what is stored.
    if face_crop.dtype != np.uint8:
        face_crop = np.clip(np.rint(face_crop), 0, 255).astype(np.uint8)
    source, source_matrix = _fit_scale(np.asarray(face_crop, np.uint8), matrix[:2])
    face = cv2.warpAffine(
        source, from_region(source_matrix, left, top), size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    )
    old = picture[top : top + size[1], left : left + size[0]]
    change = np.subtract(face, old, dtype=np.float32)
    change *= weight  # exactly 0 outside the mouth, so that the frame stays as it is
    change += old
    np.rint(change, out=change)
    return Patched(picture, left, top, np.clip(change, 0, 255, out=change).astype(np.uint8))


def face_region(
    points: NDArray[np.floating],
    affine: AffineFrame,
    *,
    below: float = BELOW_CHIN,
    feather: float = FEATHER,
    side_px: int | None = None,
) -> NDArray[np.float32]:
    """Where the face is in the square crop (h w): 1 inside its outline, softly 0 beyond it.

    What lies beside the face (hair, ear-rings, background) need not be generated, and is better left alone.
    Below the chin some room is needed: the jaw that is generated may be further up or down than the one seen.

    Args:
        points: (68, 2) in pixels of the frame.
        below: how far the region reaches below the outline, as a share of the crop's side.
        feather: width of its soft border, as a share of the crop's side.
        side_px: of the answer; None: the crop's own. A soft border costs with the cube of it.
    """
    side = side_px or affine.resolution
    outline = _in_square(points[list(OUTLINE)], affine, side)
    filled, chin = np.zeros((2, side, side), np.uint8)
    cv2.fillPoly(filled, [np.rint(outline).astype(np.int32)], 255)
    cv2.fillPoly(chin, [np.rint(outline[CHIN]).astype(np.int32)], 255)
    reach_px = round(below * side)
    grown = filled | cv2.dilate(chin, np.ones((reach_px + 1, 1), np.uint8), anchor=(0, reach_px))
    soft = cv2.GaussianBlur(grown, (0, 0), feather * side / 2)
    return np.asarray(soft / np.float32(255), np.float32)


def still_skin(
    points: NDArray[np.floating], affine: AffineFrame, *, side_px: int | None = None
) -> NDArray[np.float32]:
    """Where the square crop (h w) shows skin that keeps its colour when the mouth moves: 0..1.

    That is well inside the face, so that no colour of the background, the hair or the collar comes in, and
    away from the mouth, wherever that may be during speech.

    Args:
        points: (68, 2) in pixels of the frame.
        side_px: of the answer; None: the crop's own.
    """
    side = side_px or affine.resolution
    skin = np.clip(2 * face_region(points, affine, below=0.0, side_px=side) - 1, 0, 1)
    mouth = (255 * mouth_region(points, affine, side_px=side)).astype(np.uint8)
    reach_px = round(AROUND_MOUTH * side)
    mouth = cv2.dilate(mouth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach_px | 1, reach_px | 1)))
    mouth = cv2.dilate(mouth, np.ones((reach_px + 1, 1), np.uint8), anchor=(0, reach_px))  # a jaw goes down
    return np.asarray(skin * (1 - mouth / np.float32(255)), np.float32)


def mouth_region(
    points: NDArray[np.floating], affine: AffineFrame, *, side_px: int | None = None
) -> NDArray[np.float32]:
    """Where the square crop (h w) shows the lips and what is between them: 0 or 1.

    Args:
        points: (68, 2) in pixels of the frame.
        side_px: of the answer; None: the crop's own.
    """
    side = side_px or affine.resolution
    lips = cv2.convexHull(np.rint(_in_square(points[LIPS], affine, side)).astype(np.int32))
    return np.asarray(cv2.fillPoly(np.zeros((side, side), np.float32), [lips], 1.0), np.float32)


def match_colours(
    made: NDArray[np.float32], source_u8: FrameImage, compared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Shift the colours of a generated crop (h w c), 0..255, towards the source's, the same skin seen.

    The difference is known where `compared` (h w) is above 0. What differs from its median by much (hair, a
    shadow, a hand) counts less. It is carried smoothly over the crop, so that it changes no detail; it is
    measured at the size of `compared`, which may be smaller than the crop.

    Source: ours; a cheap relative of seamless cloning (Perez et al. 2003).
    """
    expect_axes(made, "h w c", c=3)
    difference = _shrunk(source_u8, compared) - _shrunk(made, compared)
    known = difference[compared > 0.5]
    if not len(known):
        return made
    stray = np.abs(difference - np.median(known, axis=0)).max(2)
    weight = compared * np.exp(-((stray / STRAY_LEVELS) ** 2))
    weighted = np.dstack([difference * weight[..., None], weight]).astype(np.float32)  # h w 4
    small = cv2.resize(weighted, (SMOOTH_PX, SMOOTH_PX), interpolation=cv2.INTER_AREA)
    near, far = (cv2.GaussianBlur(small, (0, 0), share * SMOOTH_PX) for share in SMOOTH_SIGMAS)
    total = near + FAR_WEIGHT * far
    shift = np.clip(total[..., :3] / (total[..., 3:] + 1e-6), -LARGEST_SHIFT, LARGEST_SHIFT)
    side = (made.shape[1], made.shape[0])
    return np.asarray(made + cv2.resize(shift, side, interpolation=cv2.INTER_LINEAR), np.float32)


def _shrunk(picture: Pixels, like: NDArray[np.float32]) -> Pixels:
    """The picture (h w c) averaged down to the size of `like` (h w)."""
    if picture.shape[:2] == like.shape:
        return picture
    small = cv2.resize(np.asarray(picture, np.float32), like.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _in_square(points: NDArray[np.floating], affine: AffineFrame, side_px: int) -> NDArray[np.float64]:
    """Points (n, 2) of the frame in pixels of the square crop at that size."""
    matrix = square_from_window(affine.resolution) @ np.vstack([affine.crop_from_frame, [0, 0, 1]])
    inside = points @ matrix[:2, :2].T + matrix[:2, 2]
    zoom = side_px / affine.resolution
    return np.asarray(inside if zoom == 1 else (inside + 0.5) * zoom - 0.5, np.float64)


@lru_cache(maxsize=8)
def soft_mouth(resolution: int, feather: float = FEATHER) -> NDArray[np.float32]:
    """The generated region of the square crop (h w): 0 outside and at its border, 1 further in."""
    generated = (mouth_mask(resolution) < 0.5).astype(np.uint8)
    distance_px = cv2.distanceTransform(generated, cv2.DIST_L2, 5)
    ramp = np.clip((distance_px - 1) / max(feather * resolution, 1e-6), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _fit_scale(
    crop_u8: FrameImage, square_from_frame: NDArray[np.float64]
) -> tuple[FrameImage, NDArray[np.float64]]:
    """The crop averaged down when the face in the frame is smaller, and the matrix to its pixels."""
    zoom = np.linalg.norm(square_from_frame[:, :2], axis=1)  # crop pixels per frame pixel, along x and y
    if zoom.max() <= 1.25:
        return crop_u8, square_from_frame
    height, width = crop_u8.shape[:2]
    size = (max(8, round(width / max(1.0, zoom[0]))), max(8, round(height / max(1.0, zoom[1]))))
    small = np.asarray(cv2.resize(crop_u8, size, interpolation=cv2.INTER_AREA), np.uint8)
    scale = np.array([size[0] / width, size[1] / height])
    matrix = square_from_frame * scale[:, None]
    matrix[:, 2] += scale / 2 - 0.5
    return small, matrix


def _sample(
    crop: NDArray[np.float32], crop_from_region: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(crop, crop_from_region, size, flags=flags), np.float32)
