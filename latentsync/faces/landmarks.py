"""The landmark network: 68 points, and whether there is a face at all, from a square around a face."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.axes import expect_axes, to_pm1
from latentsync.faces.bundled import FOLDER, load_bundled
from latentsync.types import FrameImage, Picture, whole

INPUT_PX = 96
POINTS = 68
NOSE_TIP, EYES, INNER_LIPS = 30, (range(36, 42), range(42, 48)), (62, 66)  # of the 68 points
SQUARE_PER_EXTENT = 1.5  # side of the square, in sides of the smallest square around the 68 points
DARK_LEVEL, LIT_LEVEL = (
    90,
    180,
)  # of the brightest twentieth of a square's values: too dark, and made so bright
MOST_GAIN = 8.0  # more would only show noise
BUNDLED = FOLDER / "landmarks.safetensors"

Square = tuple[float, float, float]  # centre x, centre y, side, in pixels of the frame


class Landmarker(Protocol):
    """Finds the 68 points of the face inside a square, and says how sure it is that there is one."""

    def points(self, rgb_u8: Picture, square: Square) -> tuple[NDArray[np.float32], float]: ...


class _Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut; `stride` 2 halves the picture."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride) if stride > 1 else nn.Identity()
        self.act = nn.SiLU()

    def forward(self, pictures: Tensor) -> Tensor:
        inner = self.act(self.first_norm(self.first(pictures)))
        inner = self.second_norm(self.second(inner))
        return torch.as_tensor(self.act(inner + self.shortcut(pictures)))


class LandmarkNet(nn.Module):
    """Regresses the 68 points of a 96 px square, in 0..1 of its side, and a logit for "this is a face".

    Source: ours; a small residual network, because direct regression with a wing loss is enough at this size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.SiLU()
        )  # 48 px
        self.blocks = nn.Sequential(
            _Residual(24, 40, stride=2),  # 24 px
            _Residual(40, 72, stride=2),  # 12 px
            _Residual(72, 72),
            _Residual(72, 112, stride=2),  # 6 px
            _Residual(112, 112),
        )
        self.squeeze = nn.Sequential(nn.Conv2d(112, 40, 1, bias=False), nn.BatchNorm2d(40), nn.SiLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(40 * 36, 192), nn.SiLU())
        self.to_points = nn.Linear(192, 2 * POINTS)
        self.to_face = nn.Linear(192, 1)

    def forward(self, pictures_pm1: Tensor) -> tuple[Tensor, Tensor]:
        """(n 3 96 96) RGB in -1..1 -> points (n 68 2) in 0..1 of the square, face logits (n,)."""
        expect_axes(pictures_pm1, "n c h w", c=3, h=INPUT_PX, w=INPUT_PX)
        hidden = self.head(self.squeeze(self.blocks(self.stem(pictures_pm1))))
        return self.to_points(hidden).unflatten(1, (POINTS, 2)) + 0.5, self.to_face(hidden).flatten()


def square_around(points: NDArray[np.float32]) -> Square:
    """The square in which the network expects the face that has these 68 points."""
    low, high = points.min(0), points.max(0)
    centre = (low + high) / 2
    return float(centre[0]), float(centre[1]), SQUARE_PER_EXTENT * float((high - low).max())


def nose_beside_eyes(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far the tip of the nose is from the middle of the eyes, along their line, in eye distances.

    Args:
        points: (f 68 2).

    Returns:
        (f,) 0 for a frontal face, 0.5 where the nose is below one eye.

    Source: ours; with a nose 0.6 eye distances high it is 0.6 tan(yaw), so 0.35 at 30 and 0.6 at 45 degrees.
    """
    return np.asarray(np.abs(nose_from_eyes(points)[:, 0]))


def nose_from_eyes(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where the tip of the nose lies from the middle of the eyes: along their line, and below it.

    Args:
        points: (f 68 2).

    Returns:
        (f 2) in eye distances; the first follows a turn of the head, the second a nod.
    """
    left, right = (points[:, list(eye)].mean(1, dtype=np.float64) for eye in EYES)  # f 2
    line, nose = right - left, points[:, NOSE_TIP] - (left + right) / 2
    across = np.stack([-line[:, 1], line[:, 0]], axis=1)
    squared = np.maximum(1e-6, (line**2).sum(1))
    return np.asarray(np.stack([(nose * line).sum(1), (nose * across).sum(1)], axis=1) / squared[:, None])


def lip_openings(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of the inner lips (f,) over that of the eyes' centres, of points (f 68 2) of an upright face.

    Over the distance of the eyes, so that faces of all sizes compare. NaN where the points are.
    """
    upper, lower = (points[:, index] for index in INNER_LIPS)
    left, right = (points[:, list(eye)].mean(1) for eye in EYES)
    between_eyes = np.linalg.norm(left - right, axis=1)
    return np.asarray(
        np.linalg.norm(upper - lower, axis=1) / np.where(between_eyes > 0, between_eyes, np.nan)
    )


def cut_square(rgb_u8: Picture, square: Square, *, size_px: int = INPUT_PX) -> FrameImage:
    """The square as a picture of `size_px`, averaged when it shrinks, black outside the frame."""
    centre_x, centre_y, side = square
    shrink = max(1.0, side / size_px)
    height, width = rgb_u8.shape[:2]
    left, top = max(0, int(centre_x - side / 2) - 2), max(0, int(centre_y - side / 2) - 2)
    right, bottom = min(width, int(centre_x + side / 2) + 3), min(height, int(centre_y + side / 2) + 3)
    if right - left < 2 or bottom - top < 2:
        return np.zeros((size_px, size_px, 3), np.uint8)
    region = rgb_u8[top:bottom, left:right]
    scale_x = scale_y = 1.0
    if shrink > 1:
        small = (max(1, round((right - left) / shrink)), max(1, round((bottom - top) / shrink)))
        scale_x, scale_y = small[0] / (right - left), small[1] / (bottom - top)
        region = np.asarray(cv2.resize(region, small, interpolation=cv2.INTER_AREA), np.uint8)
    zoom = size_px / side
    zoom_x, zoom_y = zoom / scale_x, zoom / scale_y
    shift_x = (left - 0.5 - centre_x + side / 2) * zoom + 0.5 * zoom_x
    shift_y = (top - 0.5 - centre_y + side / 2) * zoom + 0.5 * zoom_y
    matrix = np.array([[zoom_x, 0, shift_x], [0, zoom_y, shift_y]])
    return np.asarray(cv2.warpAffine(region, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR), np.uint8)


def _lit(square_u8: FrameImage) -> FrameImage:
    """The square, brightened if it is dark: the network was trained on faces in ordinary light.

    The brightest pixels count, not the mean: dark skin, and a dark room around a lit face, stay as they are.
    """
    bright = float(np.percentile(square_u8, 95))
    if not 0 < bright < DARK_LEVEL:
        return square_u8
    gain = min(MOST_GAIN, LIT_LEVEL / bright)
    return np.asarray(np.clip(square_u8.astype(np.float32) * gain, 0, 255), np.uint8)


class BundledLandmarker:
    """Our network, ready to use on frames."""

    def __init__(self, net: LandmarkNet) -> None:
        self._net = net.eval()

    @torch.inference_mode()
    def points(self, rgb_u8: Picture, square: Square) -> tuple[NDArray[np.float32], float]:
        """The 68 points (68, 2) in pixels of the frame, and the confidence 0..1 that this is a face."""
        centre_x, centre_y, side = square
        picture = torch.from_numpy(_lit(cut_square(rgb_u8, square))).permute(2, 0, 1)[None]
        points_unit, logits = self._net(to_pm1(picture))
        corner = np.array([centre_x - side / 2, centre_y - side / 2])
        points = points_unit[0].numpy() * side + corner
        return points.astype(np.float32), float(logits.sigmoid()[0])


def load_landmarks(path: Path | None = None) -> BundledLandmarker:
    """Our landmark network with the weights in `path`, or those in the package.

    Raises:
        WeightsError: the file is missing or holds something else.
    """
    net = load_bundled(LandmarkNet(), path or BUNDLED, name="landmark", recipe="compact/landmarks")
    return BundledLandmarker(net)


def choose_landmarker() -> Landmarker:
    """The face-alignment network of the paper where its weights are installed, otherwise ours."""
    return FaceAlignmentLandmarker() if fan_weights() else load_landmarks()


NETWORK = "2DFAN-4"
LIKELY = 0.4  # mean height of the heat maps' peaks on a face; ours, far below it means no face


def fan_weights() -> Path | None:
    """The weights file that face-alignment would load, if the package and the file are there."""
    if importlib.util.find_spec("face_alignment") is None:
        return None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob("2DFAN4-*")):
        return None
    from face_alignment.api import models_urls

    path = folder / models_urls[NETWORK].rsplit("/", 1)[-1]
    return path if path.is_file() else None


class FaceAlignmentLandmarker:
    """68 points by face-alignment, about 0.3 s a face on a CPU; no detector is loaded."""

    def __init__(self, *, device: str = "cpu") -> None:
        import face_alignment

        self._net: Any = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D,
            device=device,
            compile=False,  # compiling takes over a minute
            flip_input=False,
            face_detector="folder",  # boxes are given to it, so S3FD need not be there
        )

    def points(self, rgb_u8: Picture, square: Square) -> tuple[NDArray[np.float32], float]:
        """The 68 points (68, 2) in pixels of the frame, and the confidence 0..1 that this is a face."""
        centre_x, centre_y, side = square
        reach = side / SQUARE_PER_EXTENT / 2
        box = [centre_x - reach, centre_y - reach, centre_x + reach, centre_y + reach, 1.0]
        found, scores, _ = self._net.get_landmarks_from_image(
            whole(rgb_u8), detected_faces=[np.array(box)], return_landmark_score=True
        )
        if not found:
            return np.full((POINTS, 2), (centre_x, centre_y), np.float32), 0.0
        likely = float(np.mean(scores[0])) / (2 * LIKELY)
        return np.asarray(found[0][:, :2], np.float32), min(1.0, likely)
