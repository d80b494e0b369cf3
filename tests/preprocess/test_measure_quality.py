"""Measures of blur and blocks, and what they drop."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.errors import WeightsError
from latentsync.preprocess import measure_quality
from latentsync.preprocess.measure_quality import MeasureQuality, blockiness, sharpness
from latentsync.preprocess.step import Clip, Drop
from latentsync.types import FrameImage

from .conftest import RECIPE, astronaut, clip_of


@pytest.fixture
def face() -> FrameImage:
    return astronaut(zoom=1.6, size=(256, 256))


def blurred(face: FrameImage, sigma: float) -> FrameImage:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)


def measured(face: FrameImage, **settings: object) -> Clip | Drop:
    step = MeasureQuality(RECIPE.quality.model_copy(update={"measure": "sharpness", **settings}))
    step.start()
    (answer,) = step.run(clip_of(crops_u8=np.stack([face] * 5)), Path())
    return answer


def test_blur_lowers_sharpness_and_darkness_does_not(face: FrameImage) -> None:
    values = [sharpness(face), sharpness(blurred(face, 1)), sharpness(blurred(face, 3))]
    assert values == sorted(values, reverse=True) and values[0] > 4 * values[2]
    assert sharpness((face // 2).astype(np.uint8)) == pytest.approx(values[0], rel=0.15)
    assert sharpness(np.full((64, 64, 3), 7, np.uint8)) == 0


def test_blocks_are_seen(face: FrameImage) -> None:
    _, coded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 3])
    blocky = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    assert blockiness(face) < 1.3 < 2 < blockiness(blocky)
    assert blockiness(np.zeros((64, 64, 3), np.uint8)) == 1


def test_the_measure_is_named_and_its_limits_are_kept(face: FrameImage) -> None:
    clip = measured(face)
    assert isinstance(clip, Clip) and clip.quality is not None and clip.quality.measure == "sharpness"
    drop = measured(blurred(face, 6))
    assert isinstance(drop, Drop) and drop.reason == "low_quality" and "sharpness" in drop.detail
    drop = measured(face, max_blockiness=0.9)
    assert isinstance(drop, Drop) and "blockiness" in drop.detail


def test_hyperiqa_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="hyperiqa"):
        MeasureQuality(RECIPE.quality.model_copy(update={"measure": "hyperiqa"})).start()


def test_hyperiqa_is_preferred(monkeypatch: pytest.MonkeyPatch, face: FrameImage) -> None:
    monkeypatch.setattr(measure_quality, "has_hyperiqa", lambda: True)
    monkeypatch.setattr(
        measure_quality, "_load_hyperiqa", lambda device: lambda crop: float(crop.mean() > 0) * 39
    )
    step = MeasureQuality(RECIPE.quality)
    step.start()
    (answer,) = step.run(clip_of(crops_u8=np.stack([face] * 5)), Path())
    assert isinstance(answer, Drop) and answer.detail == "hyperiqa 39 < 40"
