"""The landmark network and its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from latentsync.errors import WeightsError
from latentsync.faces.landmarks import (
    INPUT_PX,
    BundledLandmarker,
    FaceAlignmentLandmarker,
    LandmarkNet,
    choose_landmarker,
    cut_square,
    fan_weights,
    load_landmarks,
)

FACE = (222.0, 120.0, 150.0)  # of the astronaut photograph


def test_network_is_small() -> None:
    assert sum(weight.numel() for weight in LandmarkNet().parameters()) <= 1_200_000


def test_bundled_weights_tell_a_face_from_none() -> None:
    landmarker = load_landmarks()
    points, confidence = landmarker.points(skimage.data.astronaut(), FACE)
    assert confidence > 0.9
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)
    assert np.abs(left_eye - (203, 103)).max() < 8 and np.abs(right_eye - (247, 101)).max() < 8
    assert landmarker.points(skimage.data.astronaut(), (100.0, 420.0, 150.0))[1] < 0.5
    assert landmarker.points(skimage.data.coffee(), (300.0, 200.0, 150.0))[1] < 0.5


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"landmarks\.safetensors"):
        load_landmarks(path)


@pytest.mark.parametrize("side", [40.0, 96.0, 333.0])
def test_square_is_cut_where_it_lies(side: float) -> None:
    columns, rows = np.meshgrid(np.arange(640), np.arange(480))
    ramp = np.stack([columns / 3, rows / 2, rows / 2], 2).round().astype(np.uint8)
    crop = cut_square(ramp, (320.0, 240.0, side))
    assert crop.shape == (INPUT_PX, INPUT_PX, 3)
    for row, column in ((10, 20), (48, 48), (80, 70)):
        x, y = 320 + (column / INPUT_PX - 0.5) * side, 240 + (row / INPUT_PX - 0.5) * side
        np.testing.assert_allclose(crop[row, column, :2], [x / 3, y / 2], atol=1.1)


def test_square_outside_the_frame_is_black() -> None:
    assert not cut_square(np.full((50, 50, 3), 9, np.uint8), (500.0, 500.0, 60.0)).any()


def test_output_is_points_and_face_logit() -> None:
    points, logits = LandmarkNet().eval()(torch.zeros(2, 3, INPUT_PX, INPUT_PX))
    assert points.shape == (2, 68, 2) and logits.shape == (2,)


@pytest.fixture
def stand_in_fan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """face-alignment's own weights file, in its layout and at its size, whose heat maps are flat."""
    from face_alignment.api import models_urls
    from face_alignment.models.fan import FAN

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = FAN(4).state_dict()
    for key in state:
        if key.startswith("l3."):  # the last layer of the last stack
            state[key] = torch.full_like(state[key], 0.2 if key.endswith("bias") else 0.0)
    path = tmp_path / "hub" / "checkpoints" / models_urls["2DFAN-4"].rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


def test_the_network_of_the_paper_is_used_where_its_weights_are(stand_in_fan: Path) -> None:
    landmarker = choose_landmarker()
    assert isinstance(landmarker, FaceAlignmentLandmarker) and fan_weights() == stand_in_fan
    points, confidence = landmarker.points(skimage.data.astronaut(), FACE)
    assert points.shape == (68, 2) and confidence == pytest.approx(0.25)
    # A flat map peaks at its first cell: the corner of the square that face-alignment cuts around the box.
    corner = np.array(FACE[:2]) - FACE[2] / 2
    assert np.abs(points - points[0]).max() == 0
    assert np.abs(points[0] - corner).max() < 0.35 * FACE[2]
    stand_in_fan.unlink()
    assert isinstance(choose_landmarker(), BundledLandmarker)
