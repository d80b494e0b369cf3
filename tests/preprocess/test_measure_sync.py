"""Judging sync, believing it or not, and moving the speech: a judge of loudness stands in for a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.preprocess.measure_sync import MeasureSync
from latentsync.preprocess.step import Clip, Drop, speech_during
from latentsync.rates import SAMPLES_PER_FRAME

from .conftest import RECIPE, LoudnessJudge, clip_of

FRAMES, START = 80, 40


@pytest.fixture
def loudness() -> NDArray[np.float32]:
    """Of every frame of a source that lasts a while before and after the clip."""
    return np.random.default_rng(3).uniform(0.1, 0.9, START + FRAMES + 40).astype(np.float32)


def clip_with(loudness: NDArray[np.float32], *, early_frames: int) -> Clip:
    """Brightness that fits the loudness, were the speech not early by so many frames."""
    speech = np.repeat(loudness, SAMPLES_PER_FRAME)
    shown = loudness[START - early_frames : START - early_frames + FRAMES]
    crops_u8 = np.broadcast_to((shown * 255).astype(np.uint8)[:, None, None, None], (FRAMES, 4, 4, 3))
    return clip_of(start_frame=START, frames=FRAMES, speech=speech, crops_u8=crops_u8)


def measure(clip: Clip, judge: LoudnessJudge, **settings: object) -> Clip | Drop:
    changes = {"min_confidence_compact": 0.1, "max_offset_frames": 6, **settings}
    recipe = RECIPE.sync.model_copy(update=changes)
    (answer,) = MeasureSync(recipe, judge=judge).run(clip, Path())
    return answer


@pytest.mark.parametrize("early_frames", [0, 5, -6])
def test_speech_is_moved_to_fit(
    loudness: NDArray[np.float32], judge: LoudnessJudge, early_frames: int
) -> None:
    known = measure(clip_with(loudness, early_frames=early_frames), judge)
    assert isinstance(known, Clip) and known.sync is not None and known.crops_u8 is not None
    assert known.sync.offset_frames == early_frames and known.sync.is_applied
    speech = speech_during(known).reshape(FRAMES, -1).mean(1)  # no sample is missing at either end
    np.testing.assert_allclose(speech, known.crops_u8[:, 0, 0, 0] / 255, atol=0.005)


def test_without_adjustment_the_speech_stays(loudness: NDArray[np.float32], judge: LoudnessJudge) -> None:
    clip = clip_with(loudness, early_frames=4)
    known = measure(clip, judge, adjust="none")
    assert isinstance(known, Clip) and known.sync is not None
    assert known.sync.offset_frames == 4 and not known.sync.is_applied
    np.testing.assert_array_equal(speech_during(known), speech_during(clip))


def test_before_the_affine_the_judge_sees_upright_crops(
    loudness: NDArray[np.float32], judge: LoudnessJudge
) -> None:
    clip = clip_with(loudness, early_frames=3)
    other = clip_with(loudness, early_frames=-2)
    known = measure(replace(clip, boxes_u8=other.crops_u8), judge, adjust="before")
    assert isinstance(known, Clip) and known.sync is not None and known.sync.offset_frames == -2


def test_what_is_not_believed_is_dropped(loudness: NDArray[np.float32], judge: LoudnessJudge) -> None:
    far = measure(clip_with(loudness, early_frames=9), judge)
    assert isinstance(far, Drop) and far.reason == "offset_too_large"
    assert far.clip is not None and far.clip.sync is not None and far.clip.sync.offset_frames == 9
    noise = replace(clip_with(loudness, early_frames=0), speech=np.zeros(10**5, np.float32))
    unsure = measure(noise, judge)
    assert isinstance(unsure, Drop) and unsure.reason == "low_confidence"


def test_each_judge_has_its_threshold(loudness: NDArray[np.float32]) -> None:
    answer = measure(clip_with(loudness, early_frames=0), LoudnessJudge(name="syncnet-v2"))
    assert isinstance(answer, Drop) and answer.detail.endswith("< 3 by syncnet-v2")


def test_too_short_for_the_judge(judge: LoudnessJudge) -> None:
    crops_u8 = np.zeros((3, 4, 4, 3), np.uint8)
    answer = measure(clip_of(frames=3, speech=np.zeros(99, np.float32), crops_u8=crops_u8), judge)
    assert isinstance(answer, Drop) and answer.reason == "too_short"


def test_speech_outside_the_source_is_silence() -> None:
    clip = clip_of(start_frame=1, frames=3, speech=np.ones(3 * SAMPLES_PER_FRAME, np.float32))
    speech = speech_during(clip).reshape(3, -1).mean(1)
    assert speech.tolist() == [1, 1, 0]
    after = replace(clip, start_frame=9)
    assert speech_during(after).shape == (3 * SAMPLES_PER_FRAME,) and not speech_during(after).any()
