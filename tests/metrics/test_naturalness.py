"""NIQE: its features against what they are fitted to, and what it calls natural."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from latentsync.media.read import read_frames
from latentsync.metrics.metric import Missing, ScoredClip
from latentsync.metrics.naturalness import Niqe, _fit, describe, distance, natural, patch_features


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A face and what is around it, 256 px, by NASA."""
    return np.ascontiguousarray(data.astronaut()[:384, 64:448])[:256, 64:320]


def score(crops_u8: list[np.ndarray]) -> float:
    """Of the frames of a clip, each for five."""
    stack = np.repeat(np.stack(crops_u8), 5, axis=0)
    found = Niqe().score(ScoredClip(name="one", made_u8=stack, speech=np.zeros(1, np.float32)))
    assert isinstance(found, dict)
    return found["niqe"]


def test_worse_pictures_of_a_face_are_less_natural(media: Path) -> None:
    frames = list(read_frames(media / "train" / "assorted" / "voxceleb_03.mp4", end_s=2.0))[::5]
    crops = [cv2.resize(frame.rgb_u8, (256, 256), interpolation=cv2.INTER_AREA) for frame in frames]
    noise = np.random.default_rng(0).normal(0, 25, crops[0].shape)
    blurred = [score([cv2.GaussianBlur(crop, (0, 0), by) for crop in crops]) for by in (1, 2, 4)]
    assert score(crops) < blurred[0] < blurred[1] < blurred[2]
    assert score([np.clip(crop + noise, 0, 255).astype(np.uint8) for crop in crops]) > score(crops)
    jpegs = [cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 8])[1] for crop in crops]
    assert score([cv2.imdecode(jpeg, cv2.IMREAD_COLOR) for jpeg in jpegs]) > score(crops)


@pytest.mark.parametrize("shape", [1.0, 2.0])
def test_the_fit_finds_the_shape_that_numbers_were_drawn_from(shape: float) -> None:
    random = np.random.default_rng(0)
    values = random.laplace(0, 1, 50_000) if shape == 1 else random.normal(0, 1, 50_000)
    found, left, right, mean = _fit(values)
    assert found == pytest.approx(shape, rel=0.05)
    scale = {1.0: 1.0, 2.0: np.sqrt(2)}[shape]
    assert left == pytest.approx(scale, rel=0.05) and right == pytest.approx(scale, rel=0.05)
    assert mean == pytest.approx(0, abs=0.03)


def test_patches_are_whole_and_the_blurred_are_left_out(photograph: np.ndarray) -> None:
    assert patch_features(photograph).shape == (4, 36)
    assert patch_features(photograph[:80]).shape == (0, 36)
    half_blurred = photograph.copy()
    half_blurred[:, :96] = 128
    assert len(patch_features(half_blurred, sharpest_share=0.75)) <= 2


def test_the_distance_to_itself_is_zero_and_the_table_is_one_of_36_features() -> None:
    table = natural()
    assert table.mean.shape == (36,) and table.covariance.shape == (36, 36)
    assert np.linalg.eigvalsh(table.covariance).min() > -1e-6
    assert distance(table, table) == 0
    moved = describe(np.random.default_rng(0).normal(1, 1, (50, 36)))
    assert distance(moved, table) == pytest.approx(distance(table, moved))


def test_too_few_patches_have_no_score(photograph: np.ndarray) -> None:
    for crops_u8 in (np.stack([photograph] * 5), np.zeros((20, 64, 64, 3), np.uint8)):
        clip = ScoredClip(name="one", made_u8=crops_u8, speech=np.zeros(1, np.float32))
        found = Niqe().score(clip)
        assert isinstance(found, Missing) and found.reason == "too_short"
