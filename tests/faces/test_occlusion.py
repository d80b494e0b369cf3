"""The occlusion network and its weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.errors import WeightsError
from latentsync.faces.align import align, control_points, fit_similarity
from latentsync.faces.landmarks import choose_landmarker
from latentsync.faces.occlusion import INPUT_PX, OcclusionNet, load_occlusion
from latentsync.faces.paste import mouth_region
from latentsync.media.read import read_frames
from latentsync.types import AffineFrame, FrameImage

EXAMPLE = Path(__file__).parents[2] / "examples" / "portrait.mp4"
SIDE_PX = 256


@pytest.fixture(scope="module")
def portrait() -> tuple[FrameImage, np.ndarray]:
    """The aligned crop of our own portrait, and where its lips are (96 96)."""
    frame = next(iter(read_frames(EXAMPLE)))
    height, width = frame.rgb_u8.shape[:2]
    landmarker = choose_landmarker()
    points = np.zeros((68, 2), np.float32)
    square = (width / 2, height / 2, 0.9 * min(height, width))
    for _ in range(4):
        points, _ = landmarker.points(frame.rgb_u8, square)
        low, high = points.min(0), points.max(0)
        square = (*((low + high) / 2).tolist(), 1.5 * float((high - low).max()))
    affine = AffineFrame(fit_similarity(control_points(points), SIDE_PX), SIDE_PX)
    return align(frame.rgb_u8, affine), mouth_region(points, affine, side_px=INPUT_PX) > 0


def test_network_is_small() -> None:
    assert sum(weight.numel() for weight in OcclusionNet().parameters()) <= 500_000


def test_a_free_mouth_is_free(portrait: tuple[FrameImage, np.ndarray]) -> None:
    crop_u8, lips = portrait
    assert lips.sum() > 100
    assert (load_occlusion().find(crop_u8)[lips] > 0.5).mean() < 0.02


def test_a_bar_over_the_mouth_is_in_front_of_it(portrait: tuple[FrameImage, np.ndarray]) -> None:
    crop_u8, lips = portrait
    covered_u8 = crop_u8.copy()
    rows = np.flatnonzero(lips.any(1)) * SIDE_PX // INPUT_PX
    cv2.rectangle(covered_u8, (20, int(rows[0]) - 6), (235, int(rows[-1]) + 10), (30, 60, 160), -1)
    at = (40, int(rows[-1]))
    cv2.putText(covered_u8, "LIVE FROM", at, cv2.FONT_HERSHEY_DUPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
    found = load_occlusion().find(covered_u8) > 0.5
    assert found[lips].mean() > 0.9
    assert found[:24].mean() < 0.05  # the forehead is not


def test_a_crop_of_any_size_is_looked_at(portrait: tuple[FrameImage, np.ndarray]) -> None:
    small_u8 = np.asarray(cv2.resize(portrait[0], (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
    assert load_occlusion().find(small_u8).shape == (INPUT_PX, INPUT_PX)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "occlusion.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"occlusion\.safetensors"):
        load_occlusion(path)
