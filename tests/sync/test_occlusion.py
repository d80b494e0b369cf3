"""Which pixels and which frames keep the source, by what a finder says of made crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.faces.align import align
from latentsync.faces.occlusion import INPUT_PX
from latentsync.faces.track import TrackedFrame
from latentsync.sync.generate import CutFrame
from latentsync.sync.occlusion import Rule, mark_occlusions, sure_parts
from latentsync.types import AffineFrame, Face, Frame, FrameImage

SIDE_PX = 96
LIPS = (slice(63, 75), slice(34, 62))  # rows and columns of the made face's lips, and a little more


class Finder:
    """Marks the pixels that are white."""

    def find(self, crop_u8: FrameImage) -> NDArray[np.float32]:
        return (crop_u8[..., 0] > 200).astype(np.float32)


def made_points(nose_shift: float = 0.0) -> NDArray[np.float32]:
    """The 68 points of a round face in a 96 px square; the nose shifted, in eye distances of 40 px."""
    points = np.full((68, 2), 48, np.float32)
    angles = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([48 + 40 * np.cos(angles), 45 + 45 * np.sin(angles)], 1)
    points[17:27] = np.stack([np.linspace(12, 84, 10), np.full(10, 15)], 1)
    points[27:36] = (48, 48)
    points[30] += (40 * nose_shift, 0)
    points[36:42], points[42:48] = (28, 30), (68, 30)
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points[48:60] = np.stack([48 + 12 * np.cos(turn), 69 + 4 * np.sin(turn)], 1)
    return points


def cuts(pictures: Sequence[FrameImage | None], points: NDArray[np.float32] | None = None) -> list[CutFrame]:
    """A cut frame for each square picture; None has no face."""
    affine = AffineFrame(np.array([[78.75 / 96, 0, 0], [0, 105 / 96, 0]]), SIDE_PX)
    face = Face(np.array([0, 0, 96, 96], np.float32), 1.0, made_points() if points is None else points)
    made = []
    for number, picture in enumerate(pictures):
        image = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8) if picture is None else picture
        frame = Frame(image, number, number / 25)
        if picture is None:
            made.append(CutFrame(TrackedFrame(frame, None, None), None, why="no face"))
        else:
            made.append(CutFrame(TrackedFrame(frame, face, affine), align(image, affine)))
    return made


def grey(*white: tuple[slice, slice]) -> FrameImage:
    picture = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
    for rows, columns in white:
        picture[rows, columns] = 255
    return picture


def test_a_free_face_stays_as_it_is() -> None:
    before = cuts([grey()] * 3)
    assert list(mark_occlusions(before, Finder(), "keep")) == before


def test_what_is_in_front_is_kept_softly() -> None:
    corner = (slice(66, 96), slice(0, 40))
    (seen,) = mark_occlusions(cuts([grey(corner)]), Finder(), "keep")
    assert seen.crop_u8 is not None and seen.visible is not None
    assert seen.visible.shape == (INPUT_PX, INPUT_PX)
    assert seen.visible[80, 20] == 0 and seen.visible[40, 80] == 1
    edge = seen.visible[80, 36:50]
    assert (np.diff(edge) >= 0).all() and ((edge > 0.1) & (edge < 0.9)).any()


@pytest.mark.parametrize(("rule", "left"), [("keep", [False, True]), ("skip", [True, True])])
def test_a_covered_mouth_is_left_as_it_is(rule: Rule, left: list[bool]) -> None:
    third = (slice(60, 80), slice(30, 45))
    for covering, is_left in zip((third, LIPS), left, strict=True):
        seen = list(mark_occlusions(cuts([grey(covering)] * 3), Finder(), rule))
        assert [cut.crop_u8 is None for cut in seen] == [is_left] * 3
        assert {cut.why for cut in seen} == {"mouth covered" if is_left else ""}


def test_one_wrong_frame_does_not_leave_a_gap() -> None:
    seen = mark_occlusions(cuts([grey()] * 3 + [grey(LIPS)] + [grey()] * 3), Finder(), "keep")
    assert all(cut.crop_u8 is not None for cut in seen)


def test_a_face_that_is_turned_away_is_left_as_it_is() -> None:
    for shift, why in ((0.6, ""), (1.4, "face turned away")):
        seen = list(mark_occlusions(cuts([grey()] * 2, made_points(shift)), Finder(), "keep"))
        assert [cut.why for cut in seen] == [why, why]


def test_a_fast_hand_is_kept_where_it_is_now() -> None:
    places = [(slice(50, 60), slice(left, left + 12)) for left in (20, 40, 60)]
    middle = list(mark_occlusions(cuts([grey(place) for place in places]), Finder(), "keep"))[1]
    assert middle.visible is not None and middle.visible[55, 46] == 0
    assert middle.visible[55, 25] > 0.9  # where it was before


def test_frames_without_a_face_pass() -> None:
    seen = list(mark_occlusions(cuts([None, grey(LIPS), None]), Finder(), "keep"))
    assert [cut.why for cut in seen] == ["no face", "mouth covered", "no face"]


def test_what_is_likely_counts_where_it_touches_what_is_sure() -> None:
    found = np.zeros((INPUT_PX, INPUT_PX), np.float32)
    found[50:60, 50:60] = 0.9
    found[60:70, 50:60] = 0.4  # the same hand
    found[10:30, 10:30] = 0.4  # never sure
    found[80:83, 80:83] = 0.9  # too small to be anything
    kept = sure_parts(found)
    assert kept[50:70, 50:60].min() == 1 and kept.sum() == 200
