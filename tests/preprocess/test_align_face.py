"""Crops out of frames, with what was seen around the face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentsync.preprocess.align_face import AlignFace
from latentsync.preprocess.step import Clip, Picture
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.types import Frame, FrameImage

from .conftest import astronaut, clip_of


@pytest.fixture(scope="module")
def step() -> AlignFace:
    settings = ("align.resolution=64", "align.detect_every_frames=3")
    recipe = load_recipe("preprocess", PreprocessRecipe, overrides=settings)
    step = AlignFace(recipe.align, with_boxes=True)
    step.start()
    return step


def aligned(step: AlignFace, pictures: list[FrameImage]) -> list[Picture]:
    frames = (Frame(rgb_u8, index, index / 25) for index, rgb_u8 in enumerate(pictures))
    (clip,) = step.run(clip_of(stream=frames), Path())
    assert isinstance(clip, Clip) and clip.pictures is not None
    return list(clip.pictures)


def test_a_face_gives_crops_of_the_asked_size(step: AlignFace) -> None:
    pictures = aligned(step, [astronaut(number) for number in range(5)])
    assert [picture.other_px for picture in pictures] == [0, None, None, 0, None]
    for picture in pictures:
        assert picture.crop_u8 is not None and picture.box_u8 is not None and picture.points is not None
        assert picture.crop_u8.shape == picture.box_u8.shape == (64, 64, 3)
    first, last = pictures[0].crop_u8, pictures[-1].crop_u8
    assert first is not None and last is not None
    assert np.abs(first.astype(float) - last).mean() < 6  # the face stays where it is


def test_the_upright_crop_shows_the_same_place(step: AlignFace) -> None:
    (picture,) = aligned(step, [astronaut()])
    assert picture.crop_u8 is not None and picture.box_u8 is not None
    middle = slice(20, 44)
    difference = picture.crop_u8[middle, middle].astype(float) - picture.box_u8[middle, middle]
    assert 0 < np.abs(difference).mean() < 25


def test_no_face(step: AlignFace) -> None:
    assert aligned(step, [np.full((120, 160, 3), 90, np.uint8)] * 4) == [Picture(None, None)] * 4


def test_another_face_is_measured(step: AlignFace) -> None:
    pair = np.hstack([astronaut(zoom=0.5)[:, 60:260], astronaut()[:, 60:260]])
    picture = aligned(step, [pair])[0]
    assert picture.points is not None and picture.other_px is not None
    side_px = float(np.ptp(picture.points, axis=0).max())
    assert picture.other_px / side_px == pytest.approx(0.5 / 0.8, abs=0.12)
