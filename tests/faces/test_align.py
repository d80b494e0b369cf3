"""Geometry of the crop and of the mask."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync.errors import MediaError
from latentsync.faces.align import (
    align,
    control_points,
    fit_as_released,
    fit_similarity,
    mouth_mask,
    template,
    warp_window,
    window_px,
)
from latentsync.types import AffineFrame


@pytest.mark.parametrize("resolution", [256, 512])
def test_similarity_is_the_released_one(golden: Path, resolution: int) -> None:
    case = json.loads((golden / f"affine_{resolution}.json").read_text())
    landmarks = np.array(case["landmarks"])
    assert window_px(resolution) == tuple(case["crop_width_height"])
    np.testing.assert_allclose(template(resolution), case["template"])
    np.testing.assert_allclose(
        fit_similarity(landmarks[0], resolution), case["matrix_first_unsmoothed"], atol=2e-4
    )
    bias = None
    for control, expected in zip(landmarks, case["matrices_smoothed"], strict=True):
        matrix, bias = fit_as_released(control, resolution, bias=bias)
        np.testing.assert_allclose(matrix, expected, atol=2e-4)


@pytest.mark.parametrize("resolution", [256, 512])
def test_window_is_the_released_one(golden: Path, resolution: int) -> None:
    case = load_file(golden / f"affine_{resolution}.safetensors")
    window = warp_window(case["image"], AffineFrame(case["matrix"].astype(np.float64), resolution))
    assert np.abs(window.astype(int) - case["crop"]).max() <= 1


@pytest.mark.parametrize("resolution", [256, 512])
def test_mask_file_is_read_as_released(golden: Path, resolution: int) -> None:
    case = load_file(golden / f"mask_{resolution}.safetensors")
    mask = mouth_mask(resolution, golden.parent / "mask.png")
    np.testing.assert_allclose(mask, case["mask"], atol=1e-6)


def test_drawn_mask_agrees_with_the_released_one(golden: Path) -> None:
    drawn, released = mouth_mask(256) < 0.5, mouth_mask(256, golden.parent / "mask.png") < 0.5
    assert (drawn & released).sum() / (drawn | released).sum() >= 0.995


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_mask_says_one_where_the_frame_is_kept(resolution: int) -> None:
    mask = mouth_mask(resolution)
    mouth, forehead = (int(resolution * 0.7), resolution // 2), (int(resolution * 0.1), resolution // 2)
    assert mask.shape == (resolution, resolution)
    assert mask[mouth] == 0 and mask[forehead] == 1


def test_mask_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not a picture"):
        mouth_mask(256, tmp_path / "none.png")


def test_control_points_are_brows_and_nose() -> None:
    points = np.zeros((68, 2))
    points[17:22], points[22:27], points[27:36] = (1, 2), (3, 4), (5, 6)
    assert control_points(points).tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_fit_undoes_a_similarity(resolution: int) -> None:
    frame_from_window = np.array([[0.9, 0.2, 40.0], [-0.2, 0.9, 30.0]])
    points = template(resolution) @ frame_from_window[:, :2].T + frame_from_window[:, 2]
    fitted = fit_similarity(points, resolution)
    np.testing.assert_allclose(fitted, cv2.invertAffineTransform(frame_from_window), atol=1e-9)


@pytest.mark.parametrize(("resolution", "zoom"), [(128, 0.2), (128, 1.5), (256, 0.5), (256, 2.0)])
def test_crop_shows_what_lies_under_it(resolution: int, zoom: float) -> None:
    columns, rows = np.meshgrid(np.arange(900), np.arange(800))
    ramp = np.stack([columns / 4, rows / 4, (columns + rows) / 8], 2).round().astype(np.uint8)
    width, height = window_px(resolution)
    matrix = np.array([[zoom, 0, width / 2 - 450 * zoom], [0, zoom, height / 2 - 400 * zoom]])
    crop = align(ramp, AffineFrame(matrix, resolution))
    assert crop.shape == (resolution, resolution, 3)
    centre = crop[resolution // 2 - 2 : resolution // 2 + 2, resolution // 2 - 2 : resolution // 2 + 2]
    np.testing.assert_allclose(centre.mean((0, 1)), [450 / 4, 400 / 4, 850 / 8], atol=1.0)
