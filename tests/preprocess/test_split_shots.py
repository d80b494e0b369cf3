"""Cutting a stream of frames into shots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentsync.preprocess.split_shots import SplitShots
from latentsync.preprocess.step import Clip
from latentsync.types import Frame

from .conftest import RECIPE, clip_of


def film(*levels: int, frames_each: int = 30) -> Iterator[Frame]:
    """Slightly noisy pictures, with a cut wherever the level changes."""
    random = np.random.default_rng(0)
    for shot, level in enumerate(levels):
        for number in range(frames_each):
            noisy = random.integers(level, level + 4, (36, 64, 3)).astype(np.uint8)
            index = shot * frames_each + number
            yield Frame(noisy, index, index / 25)


def shots_of(frames: Iterator[Frame]) -> Iterator[Clip]:
    for shot in SplitShots(RECIPE.shots).run(clip_of(stream=frames), Path()):
        assert isinstance(shot, Clip)
        yield shot


def test_every_shot_is_a_clip_and_no_frame_is_lost() -> None:
    found = [
        (shot.start_frame, [frame.index for frame in shot.stream or []])
        for shot in shots_of(film(20, 200, 90))
    ]
    assert found == [(0, list(range(30))), (30, list(range(30, 60))), (60, list(range(60, 90)))]


def test_the_rest_of_a_shot_is_skipped_when_the_next_is_asked_for() -> None:
    starts = []
    for shot in shots_of(film(20, 200, 90)):
        assert shot.stream is not None
        starts.append(next(shot.stream).index)
    assert starts == [0, 30, 60]


def test_only_a_few_frames_are_held_back() -> None:
    read = []

    def counted() -> Iterator[Frame]:
        for frame in film(20, 20):
            read.append(frame.index)
            yield frame

    shot = next(shots_of(counted()))
    assert shot.stream is not None
    for frame in shot.stream:
        assert read[-1] - frame.index <= RECIPE.shots.window_frames
