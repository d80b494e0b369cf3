"""Opening a source: what is taken, what is refused, and 25 frames a second out of any other rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from latentsync.preprocess.read_video import ReadVideo, at_25_fps
from latentsync.preprocess.step import Clip, Drop, Source
from latentsync.types import Frame

from .conftest import RECIPE, numbered_frames

MakeFilm = Callable[..., Path]


def numbers(frames: Iterator[Frame]) -> list[int]:
    return [int(frame.rgb_u8[0, 0, 0]) for frame in frames]


def read(path: Path, **limits: object) -> list[Clip | Drop]:
    step = ReadVideo(RECIPE.read.model_copy(update=limits), min_s=0.5)
    return list(step.run(Clip(source=Source(path, path.name)), path.parent))


def reason(path: Path, **limits: object) -> str:
    (answer,) = read(path, **limits)
    assert isinstance(answer, Drop)
    return answer.reason


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (25, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (50, [0, 2, 4, 6, 8]),
        (10, [0, 0, 1, 1, 2, 2, 2, 3, 3, 4]),
        (1000, [0]),
    ],
)
def test_25_frames_a_second(fps: int, expected: list[int]) -> None:
    found = list(at_25_fps(numbered_frames(max(expected[-1] + 1, 10), fps=fps), max_gap_s=1))
    assert numbers(iter(found))[: len(expected)] == expected
    assert [frame.index for frame in found] == list(range(len(found)))
    assert all(frame.time_s == frame.index / 25 for frame in found)


def test_duration_is_kept() -> None:
    assert len(list(at_25_fps(numbered_frames(30, fps=30), max_gap_s=1))) == 25
    assert len(list(at_25_fps(numbered_frames(24, fps=24000 / 1001), max_gap_s=1))) == 25


def test_frames_out_of_order_are_left_out_and_gaps_are_not_filled() -> None:
    times_s = [0.0, 0.04, 0.02, 0.08, 600.0, 600.04]
    frames = (Frame(np.full((1, 1, 3), k, np.uint8), k, time_s) for k, time_s in enumerate(times_s))
    found = list(at_25_fps(frames, max_gap_s=0.5))
    assert numbers(iter(found)) == [0, 1, 3, 4, 5]
    assert [frame.index for frame in found] == [0, 1, 2, 15000, 15001]


def test_a_gap_makes_two_clips(make_film: MakeFilm) -> None:
    times_ms = [40 * k for k in range(15)] + [2000 + 40 * k for k in range(15)]
    path = make_film(times_ms=times_ms, sound_s=2.6)
    step = ReadVideo(RECIPE.read, min_s=0.5)
    starts, lengths = [], []
    for clip in step.run(Clip(source=Source(path, path.name)), path.parent):
        assert isinstance(clip, Clip) and clip.stream is not None and clip.speech is not None
        starts.append(clip.start_frame)
        lengths.append(len(list(clip.stream)))
    assert (starts, lengths) == ([0, 50], [15, 15])


def test_unread_frames_are_skipped_when_the_next_clip_is_asked_for(make_film: MakeFilm) -> None:
    path = make_film(times_ms=[40 * k for k in range(15)] + [2000 + 40 * k for k in range(15)])
    clips = [clip for clip in read(path) if isinstance(clip, Clip)]
    assert [clip.start_frame for clip in clips] == [0, 50]


def test_what_is_refused(make_film: MakeFilm) -> None:
    film = make_film()
    assert reason(make_film("silent.mp4", sound_s=None)) == "no_audio"
    assert reason(make_film("sound.m4a", has_video=False)) == "no_video"
    assert reason(make_film("one.mp4", frames=1)) == "no_video"
    assert reason(make_film("short.mp4", frames=5)) == "too_short"
    assert reason(film, max_pixels=3000) == "too_large"
    assert reason(film, max_fps=24) == "too_fast"
    assert reason(film, max_hours=0.0001) == "too_long"


def test_frames_are_upright_and_no_longer_than_asked(make_film: MakeFilm) -> None:
    (clip,) = read(make_film(rotation=90, size=(128, 64)), max_side_px=64)
    assert isinstance(clip, Clip) and clip.source_px == 2
    (upright,) = read(make_film(rotation=90, size=(128, 64)))
    assert isinstance(upright, Clip)
    for taken, shape in ((clip, (64, 32, 3)), (upright, (128, 64, 3))):
        limits = {"max_side_px": 64 if taken is clip else 128}
        step = ReadVideo(RECIPE.read.model_copy(update=limits), min_s=0.5)
        first = next(step.run(taken, Path()))
        assert isinstance(first, Clip) and first.stream is not None
        assert next(first.stream).rgb_u8.shape == shape
