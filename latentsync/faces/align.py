"""Where the aligned crop lies in a frame, cutting it, and the fixed mask of the mouth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes
from latentsync.errors import MediaError
from latentsync.types import AffineFrame, FrameImage, Picture

TEMPLATE = np.array(
    [[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]]
)  # left brow, right brow, nose, before the ratio
TEMPLATE_RATIO_AT_256 = 2.8
WINDOW_WIDTH, WINDOW_HEIGHT = 75, 100  # the upright window, before the ratio
OUTSIDE_GREY = 127  # what lies outside the frame
CONTROL_GROUPS = (range(17, 22), range(22, 27), range(27, 36))  # of the 68 points: brows and nose
PREFILTER_BELOW = 0.7  # zoom under which bilinear sampling would skip pixels of the frame
MASK_PX = 256
# Outline of the generated region in a 256 px crop. Source: the picture the released models were trained
# with, traced to an overlap of 0.995 or more.
MOUTH_OUTLINE = (
    (9, 95), (9, 135), (12, 170), (22, 188), (34, 202), (49, 215), (60, 222), (95, 238), (108, 241),
    (152, 242), (164, 239), (183, 231), (202, 220), (223, 201), (240, 177), (244, 169), (247, 134),
    (246, 95), (178, 95), (177, 128), (78, 128), (77, 95),
)  # fmt: skip


def template(resolution: int) -> NDArray[np.float64]:
    """The three control points (3, 2) in pixels of the upright window.

    >>> template(256)[2].tolist()
    [105.0, 112.0]
    """
    return TEMPLATE * (resolution / 256 * TEMPLATE_RATIO_AT_256)


def window_px(resolution: int) -> tuple[int, int]:
    """Width and height of the upright window, which is then squeezed to a square.

    >>> window_px(256)
    (210, 280)
    """
    ratio = resolution / 256 * TEMPLATE_RATIO_AT_256
    return round(WINDOW_WIDTH * ratio), round(WINDOW_HEIGHT * ratio)


def control_points(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Left brow, right brow and nose (3, 2), as means over the 68 points.

    Source: LatentSync 1.0 and 1.5; later versions take a few of 106 points instead.
    """
    expect_axes(points, "n d", n=68, d=2)
    return np.stack([points[list(group)].mean(0, dtype=np.float64) for group in CONTROL_GROUPS])


def fit_similarity(control: NDArray[np.floating], resolution: int) -> NDArray[np.float64]:
    """The similarity (2, 3) that takes the control points (3, 2) of a frame to the template.

    Source: Procrustes; the scale is the ratio of standard deviations, as in the official alignment.
    """
    matrix, _ = _fit(control, resolution)
    return matrix


def fit_as_released(
    control: NDArray[np.floating], resolution: int, *, bias: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`fit_similarity` plus the official sub-pixel bias: 0.2 of the frame before and 0.8 of this one.

    Args:
        control: (3, 2) control points of this frame.
        resolution: side of the square crop.
        bias: what this function returned for the frame before; None for the first frame.

    Returns:
        The similarity (2, 3) and the bias to pass with the next frame.
    """
    matrix, own_bias = _fit(control, resolution)
    bias = own_bias if bias is None else 0.2 * bias + 0.8 * own_bias
    return matrix + np.column_stack([np.zeros((2, 2)), bias]), bias


def _fit(control: NDArray[np.floating], resolution: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The similarity, and how far the normalised nose lies from the template's."""
    expect_axes(control, "n d", n=3, d=2)
    target = template(resolution)
    source_mean, target_mean = control.mean(0, dtype=np.float64), target.mean(0)
    source, wanted = control - source_mean, target - target_mean
    source_spread, target_spread = source.std(ddof=1), wanted.std(ddof=1)
    source, wanted = source / source_spread, wanted / target_spread
    left, _, right = np.linalg.svd(source.T @ wanted)
    if np.linalg.det(left @ right) < 0:
        right[-1] *= -1
    turn = target_spread / source_spread * (left @ right).T
    return np.column_stack([turn, target_mean - turn @ source_mean]), wanted[2] - source[2]


def affine_of(points: NDArray[np.floating], resolution: int) -> AffineFrame:
    """Where the square of `resolution` pixels lies around 68 points (68 2), without smoothing over time."""
    return AffineFrame(fit_similarity(control_points(points), resolution), resolution)


def align(picture: Picture, affine: AffineFrame) -> FrameImage:
    """Cut the square crop (h w c) of side `affine.resolution` out of a frame's picture.

    Source: the official crop, a bilinear warp to the upright window and Lanczos to the square. Ours: a face
    larger than the crop is averaged down first, so that it does not flicker.
    """
    square = (affine.resolution, affine.resolution)
    return np.asarray(
        cv2.resize(warp_window(picture, affine), square, interpolation=cv2.INTER_LANCZOS4), np.uint8
    )


def warp_window(picture: Picture, affine: AffineFrame) -> FrameImage:
    """The upright window (h w c), 75:100, of a frame's picture; grey outside the frame."""
    expect_axes(picture, "h w c", c=3)
    left, top, right, bottom = crop_bounds(affine, picture.shape[1], picture.shape[0], margin_px=4)
    width, height = window_px(affine.resolution)
    if right <= left or bottom <= top:
        return np.full((height, width, 3), OUTSIDE_GREY, np.uint8)
    region, matrix = picture[top:bottom, left:right], from_region(affine.crop_from_frame, left, top)
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if zoom < PREFILTER_BELOW and min(region.shape[:2]) >= 4:
        region, matrix = _shrink(region, matrix, zoom)
    window = cv2.warpAffine(
        region, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(OUTSIDE_GREY,) * 3
    )
    return np.asarray(window, np.uint8)


def from_region(crop_from_frame: NDArray[np.float64], left: int, top: int) -> NDArray[np.float64]:
    """The same transform, from pixels of the region of the frame that begins at (left, top)."""
    shifted = crop_from_frame.copy()
    shifted[:, 2] += crop_from_frame[:, :2] @ [left, top]
    return shifted


def _shrink(
    region: FrameImage, crop_from_region: NDArray[np.float64], zoom: float
) -> tuple[FrameImage, NDArray[np.float64]]:
    """The region averaged to the crop's scale, and the window from its pixels."""
    width, height = max(1, round(region.shape[1] * zoom)), max(1, round(region.shape[0] * zoom))
    small = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = region.shape[1] / width, region.shape[0] / height
    region_from_small = np.array(
        [[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5], [0, 0, 1]]
    )
    return np.asarray(small, np.uint8), crop_from_region @ region_from_small


def crop_bounds(affine: AffineFrame, width: int, height: int, *, margin_px: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (half open) of the crop in a frame of that size, `margin_px` wider."""
    window_width, window_height = window_px(affine.resolution)
    right, bottom = window_width - 1, window_height - 1
    corners = np.array([[0, 0, 1], [right, 0, 1], [0, bottom, 1], [right, bottom, 1]], np.float64)
    corners = corners @ cv2.invertAffineTransform(affine.crop_from_frame).T
    low = np.floor(corners.min(0)).astype(int) - margin_px
    high = np.ceil(corners.max(0)).astype(int) + margin_px + 1
    limit = np.array([width, height])
    low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def square_from_window(resolution: int) -> NDArray[np.float64]:
    """The squeeze (3, 3) from pixels of the upright window to pixels of the square crop."""
    width, height = window_px(resolution)
    zoom_x, zoom_y = resolution / width, resolution / height
    return np.array([[zoom_x, 0, zoom_x / 2 - 0.5], [0, zoom_y, zoom_y / 2 - 0.5], [0, 0, 1]])


def mouth_mask(resolution: int, file: Path | None = None) -> NDArray[np.float32]:
    """The fixed mask (h w) of the square crop: 1 where the frame is kept, 0 where the mouth is generated.

    Args:
        resolution: side of the crop.
        file: a picture of the mask to use instead of our drawing, black where generated.

    Raises:
        MediaError: `file` is not a picture.

    Source: polarity and resizing as released; the drawing is ours.
    """
    if file is None:
        picture = np.full((MASK_PX, MASK_PX), 255, np.uint8)
        cv2.fillPoly(picture, [np.array(MOUTH_OUTLINE, np.int32)], 0)
    else:
        loaded = cv2.imread(str(file)) if file.is_file() else None
        if loaded is None:
            raise MediaError(
                f"{file}: not a picture", hint="give a PNG that is black where the mouth is generated"
            )
        picture = loaded[..., 0]
    resized = cv2.resize(picture, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(resized, np.float32) / np.float32(255)
