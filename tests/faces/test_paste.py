"""What pasting changes and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from latentsync.faces.align import align, mouth_mask, window_px
from latentsync.faces.paste import face_region, match_colours, paste, paste_window, soft_mouth, still_skin
from latentsync.types import AffineFrame, FrameImage


def _frame() -> FrameImage:
    noise = np.random.default_rng(3).integers(0, 255, (360, 480, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.uint8)


def _affine(resolution: int = 256, *, left: float = 150, top: float = 60, width: float = 150) -> AffineFrame:
    zoom = window_px(resolution)[0] / width
    matrix = np.array([[zoom, 0.1 * zoom, -left * zoom], [-0.1 * zoom, zoom, -top * zoom]])
    return AffineFrame(matrix, resolution)


@pytest.mark.parametrize("resolution", [256, 512])
def test_whole_crop_is_restored_as_released(golden: Path, resolution: int) -> None:
    case = load_file(golden / f"affine_{resolution}.safetensors")
    affine = AffineFrame(case["matrix"].astype(np.float64), resolution)
    window = np.ascontiguousarray((case["generated_face"].transpose(1, 2, 0) / 2 + 0.5) * 255)
    difference = np.abs(paste_window(case["image"], window, affine).rgb_u8.astype(int) - case["restored"])
    # At 512 px a line of 37 pixels on the outermost border, weight 0.014, differs by 2 or 3.
    assert (difference > 1).mean() < 2e-4 and difference.max() <= 3


@pytest.mark.parametrize("resolution", [128, 256])
@pytest.mark.parametrize("region", ["mouth", "crop"])
def test_pasting_what_was_cut_changes_little(resolution: int, region: str) -> None:
    frame, affine = _frame(), _affine(resolution)
    pasted = paste(frame, align(frame, affine), affine, region=region)  # type: ignore[arg-type]
    assert np.abs(pasted.rgb_u8.astype(int) - frame).mean() < 0.1


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_pixels_outside_the_mouth_are_equal(resolution: int) -> None:
    frame, affine = _frame(), _affine(resolution)
    crop = np.random.default_rng(4).uniform(0, 255, (resolution, resolution, 3)).astype(np.float32)
    before = frame.copy()
    pasted = paste(frame, crop, affine).rgb_u8
    mouth = soft_mouth(resolution)
    width, height = window_px(resolution)
    window = cv2.resize(mouth, (width, height), interpolation=cv2.INTER_LINEAR)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(window, affine.crop_from_frame, (480, 360), flags=flags) > 0
    inside = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert (frame == before).all()
    assert (pasted[~inside] == frame[~inside]).all()
    assert (pasted[inside] != frame[inside]).mean() > 0.5


@pytest.mark.parametrize(("left", "top"), [(-80, 60), (420, 300), (150, -120), (2000, 2000)])
@pytest.mark.parametrize("region", ["mouth", "crop"])
def test_a_crop_may_reach_over_the_border(left: float, top: float, region: str) -> None:
    frame, affine = _frame(), _affine(left=left, top=top)
    crop = np.full((256, 256, 3), 200, np.uint8)
    assert paste(frame, crop, affine, region=region).rgb_u8.shape == frame.shape  # type: ignore[arg-type]


def test_a_tint_is_taken_out_though_something_else_is_in_the_way() -> None:
    crop = align(_frame(), _affine())
    tinted = crop.astype(np.float32) + np.array([16, -14, 13], np.float32)
    matched = match_colours(tinted, crop, mouth_mask(256))
    assert np.abs(matched - crop).max() < 0.5
    flag = crop.copy()
    flag[:60, :60] = (255, 0, 0)  # seen in the source and not made
    assert np.abs(match_colours(tinted, flag, mouth_mask(256)) - crop).max() < 1
    assert (match_colours(tinted, crop, np.zeros((256, 256), np.float32)) == tinted).all()


def _drawn_face() -> tuple[NDArray[np.float64], AffineFrame]:
    """68 points of a face that fills the window of 210 x 280."""
    angles = np.linspace(np.pi, 0, 17)
    points = np.full((68, 2), 105.0)
    points[:17] = np.stack([105 + 90 * np.cos(angles), 100 + 160 * np.sin(angles)], 1)
    points[17:27] = np.stack([np.linspace(20, 190, 10), np.full(10, 40.0)], 1)
    points[48:60] = 105, 190
    points[48, 0], points[54, 0] = 80, 130
    return points, AffineFrame(np.array([[1.0, 0, 0], [0, 1, 0]]), 256)


@pytest.mark.parametrize("side_px", [64, 256])
def test_the_mouth_is_no_still_skin(side_px: int) -> None:
    points, affine = _drawn_face()
    skin = still_skin(points, affine, side_px=side_px)
    scale = side_px / 280
    middle = side_px // 2
    assert skin[round(190 * scale), middle] == 0 and skin[round(205 * scale), middle] == 0
    assert skin[round(120 * scale), middle] == 1 and skin[2, 2] == 0


def test_colours_measured_small_are_those_measured_large() -> None:
    points, affine = _drawn_face()
    crop = align(_frame(), _affine())
    tint = np.linspace(-12, 12, 256, dtype=np.float32)[:, None, None] * np.array([1, -1, 0.5], np.float32)
    large, small = (
        match_colours(crop + tint, crop, still_skin(points, affine, side_px=side_px)) for side_px in (256, 64)
    )
    assert np.abs(large - crop).max() > 2  # a shift that changes over the face cannot be undone at its ends
    assert np.abs(small - large).max() < 1


def test_the_face_region_drawn_small_is_that_drawn_large() -> None:
    points, affine = _drawn_face()
    small = cv2.resize(face_region(points, affine, side_px=128), (256, 256))
    assert np.abs(small - face_region(points, affine)).max() < 0.1


def test_the_face_region_follows_the_outline() -> None:
    affine = AffineFrame(np.array([[1.0, 0, 0], [0, 1, 0]]), 256)  # the window is 210 x 280
    angles = np.linspace(np.pi, 0, 17)
    jaw = np.stack([105 + 70 * np.cos(angles), 120 + 100 * np.sin(angles)], 1)
    points = np.full((68, 2), 105.0)
    points[:17], points[17:27] = jaw, np.stack([np.linspace(40, 170, 10), np.full(10, 80.0)], 1)
    region = face_region(points, affine)
    assert region[150, 128] == 1
    assert region[250, 128] == 0 and region[150, 10] == 0


def test_nothing_changes_outside_the_face_region() -> None:
    frame, affine = _frame(), _affine()
    crop = np.full((256, 256, 3), 200, np.uint8)
    nowhere = np.zeros((256, 256), np.float32)
    assert (paste(frame, crop, affine, within=nowhere).rgb_u8 == frame).all()
