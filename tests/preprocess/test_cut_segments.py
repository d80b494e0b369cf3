"""Clips of a length that training can use, out of shots of any length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.preprocess.cut_segments import CutSegments
from latentsync.preprocess.step import Clip, Drop, Picture
from latentsync.recipe.preprocess import Cutting

from .conftest import clip_of, face_points, picture_of

LENGTH = 10  # frames


def cut(frames: int, *, min_s: float = 0.4) -> list[Clip | Drop]:
    pictures = (picture_of(face_points(x=number)) for number in range(frames))
    step = CutSegments(Cutting(length_s=LENGTH / 25, min_s=min_s))
    return list(step.run(clip_of(start_frame=100, pictures=pictures), Path()))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (10, [(100, 10)]),
        (19, [(100, 19)]),
        (20, [(100, 10), (110, 10)]),
        (37, [(100, 10), (110, 10), (120, 17)]),
    ],
)
def test_the_rest_joins_the_last_clip(frames: int, expected: list[tuple[int, int]]) -> None:
    clips = [clip for clip in cut(frames) if isinstance(clip, Clip)]
    assert [(clip.start_frame, clip.frames) for clip in clips] == expected
    seen = [
        picture.points[30, 0]
        for clip in clips
        for picture in clip.pictures or []
        if picture.points is not None
    ]
    assert seen == list(range(frames))


def test_a_short_shot_is_dropped_or_kept_as_the_recipe_says() -> None:
    (drop,) = cut(9)
    assert isinstance(drop, Drop) and drop.reason == "too_short"
    assert drop.clip is not None and (drop.clip.start_frame, drop.clip.frames) == (100, 9)
    (clip,) = cut(9, min_s=0.2)
    assert isinstance(clip, Clip) and clip.frames == 9


def test_no_more_is_read_than_has_to_be_held() -> None:
    read = []

    def counted() -> Iterator[Picture]:
        for number in range(100):
            read.append(number)
            yield picture_of(face_points())

    next(CutSegments(Cutting(length_s=LENGTH / 25, min_s=0.4)).run(clip_of(pictures=counted()), Path()))
    assert len(read) == 2 * LENGTH
