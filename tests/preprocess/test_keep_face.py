"""Which faces are good enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentsync.faces.landmarks import nose_beside_eyes
from latentsync.preprocess.keep_face import KeepFace
from latentsync.preprocess.step import Clip, Drop, Picture
from latentsync.recipe.preprocess import Keeping

from .conftest import clip_of, face_points, picture_of


def keep(pictures: list[Picture], *, source_px: float = 1.0) -> Clip | Drop:
    clip = clip_of(pictures=iter(pictures), start_frame=50, frames=len(pictures), source_px=source_px)
    (answer,) = KeepFace(Keeping(min_px=60, max_yaw=0.5, other_size=0.5, other_share=0.25)).run(clip, Path())
    return answer


def reason(pictures: list[Picture]) -> str:
    answer = keep(pictures)
    assert isinstance(answer, Drop)
    return answer.reason


def test_a_good_face_is_kept_with_its_crops_and_facts() -> None:
    clip = keep([picture_of(face_points(x=100 + number), other_px=0) for number in range(12)], source_px=2)
    assert isinstance(clip, Clip) and clip.face is not None and clip.crops_u8 is not None
    assert clip.crops_u8.shape == (12, 8, 8, 3)
    assert (clip.face.px, clip.face.yaw, clip.face.others) == (160, 0, 0)


def test_a_face_that_is_not_there_all_the_time() -> None:
    good, none = picture_of(face_points()), picture_of(None)
    assert reason([none] * 5) == "no_face"
    assert reason([good] * 4 + [none]) == "face_lost"
    assert reason([good] * 4 + [picture_of(face_points(x=200))] * 4) == "face_lost"


def test_a_small_or_turned_face() -> None:
    assert reason([picture_of(face_points(side=50))] * 5) == "face_too_small"
    assert reason([picture_of(face_points(nose=0.7))] * 5) == "side_on"


def test_a_second_face_counts_by_its_size_and_time() -> None:
    alone, large, small = (picture_of(face_points(), other_px=px) for px in (0, 50, 30))
    unseen = picture_of(face_points())
    assert reason([large, unseen, unseen, alone]) == "several_faces"
    assert isinstance(keep([small, unseen] * 4), Clip)
    assert isinstance(keep([large, alone, alone, alone, alone, unseen]), Clip)


@pytest.mark.parametrize("turn_deg", [0, 30, 90])
def test_yaw_does_not_depend_on_roll(turn_deg: float) -> None:
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = np.stack([face_points(nose=0.3) @ turn, face_points(nose=-0.3) @ turn])
    np.testing.assert_allclose(nose_beside_eyes(points.astype(np.float32)), [0.3, 0.3], atol=1e-4)
