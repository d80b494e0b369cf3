"""The reference of each window: which frame it is, and when another one takes over."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.faces.align import align
from latentsync.faces.track import TrackedFrame
from latentsync.sync.references import (
    CLEARLY_BETTER,
    MOST_KEPT,
    PER_TURN,
    Candidate,
    Reference,
    References,
    candidate,
)
from latentsync.types import AffineFrame, Face, Frame

from .test_occlusion import SIDE_PX, made_points

AFFINE = AffineFrame(np.array([[78.75 / 96, 0, 0], [0, 105 / 96, 0]]), SIDE_PX)


def frame_of(quality: float, *, turn: float = 0.0, shot: int = 0, gain: float = 1.0) -> Candidate:
    """Its crop is one pixel that says how good it is."""
    crop_u8 = np.full((1, 1, 3), round(100 * quality), np.uint8)
    return Candidate(crop_u8, shot, quality, gain, np.array([turn, 0.0]))


def chosen(references: References, *frames: Candidate) -> tuple[int, int | None]:
    """Qualities in hundredths of the reference and of the one before it."""
    given: Reference = references.choose(frames)
    before = given.before_u8
    return int(given.crop_u8[0, 0, 0]), None if before is None else int(before[0, 0, 0])


def test_a_window_gets_its_best_frame_and_keeps_it_until_another_is_clearly_better() -> None:
    references = References()
    assert chosen(references, frame_of(0.3), frame_of(0.5), frame_of(0.4)) == (50, None)
    assert chosen(references, frame_of(0.5 + CLEARLY_BETTER - 0.02)) == (50, None)
    assert chosen(references, frame_of(0.5 + CLEARLY_BETTER + 0.02)) == (77, 50)
    assert chosen(references, frame_of(0.2)) == (77, None)


def test_a_still_picture_keeps_its_only_frame() -> None:
    references = References()
    assert [chosen(references, *[frame_of(0.0)] * 16) for _ in range(3)] == [(0, None)] * 3


def test_a_head_that_turns_gets_a_frame_of_its_pose_again() -> None:
    references, away = References(), 1.2 * CLEARLY_BETTER / PER_TURN
    assert chosen(references, frame_of(0.9)) == (90, None)
    assert chosen(references, frame_of(0.91, turn=away)) == (91, 90)
    assert chosen(references, frame_of(0.1, turn=away / 2)) == (91, None)
    assert chosen(references, frame_of(0.1)) == (90, 91)


def test_light_counts_too() -> None:
    references = References()
    chosen(references, frame_of(0.6))
    assert chosen(references, frame_of(0.61, gain=2.0)) == (61, 60)


def test_another_shot_begins_anew() -> None:
    references = References()
    chosen(references, frame_of(0.9))
    assert chosen(references, frame_of(0.2, shot=1)) == (20, None)


def test_few_crops_are_kept_and_the_best_is_among_them() -> None:
    references = References()
    chosen(references, frame_of(1.0, turn=0.5))
    for number in range(3 * MOST_KEPT):
        chosen(references, frame_of(0.5, turn=-0.01 * number))
    assert len(references._kept) == MOST_KEPT
    assert chosen(references, frame_of(0.0, turn=0.5))[0] == 100


def face_of(
    opening_px: float, *, visible: NDArray[np.float32] | None = None, is_interpolated: bool = False
) -> float:
    """The quality of a made face, 40 px between its eyes, with teeth in an opening of so many pixels."""
    points = made_points()
    points[62], points[66] = (48, 69 - opening_px / 2), (48, 69 + opening_px / 2)
    picture = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
    if opening_px:
        picture[67:69, 40:56], picture[69:71, 40:56] = 220, 20
    tracked = TrackedFrame(Frame(picture, 0, 0.0), Face(np.zeros(4, np.float32), 1.0, points), AFFINE)
    if is_interpolated:
        tracked = TrackedFrame(tracked.frame, tracked.face, AFFINE, is_interpolated=True)
    return candidate(tracked, align(picture, AFFINE), gain=1.0, visible=visible).quality


def test_an_open_mouth_is_better_than_a_closed_one_and_than_a_yawn() -> None:
    closed, ajar, opened, wider, yawn = (face_of(opening_px) for opening_px in (0, 2, 6, 12, 26))
    assert closed == 0
    assert ajar < min(opened, wider)
    assert yawn < max(opened, wider) - 0.3
    assert opened > 0.9


def test_what_is_covered_or_unseen_is_worse() -> None:
    covered = np.ones((SIDE_PX, SIDE_PX), np.float32)
    covered[:, : SIDE_PX // 2] = 0
    elsewhere = np.ones((SIDE_PX, SIDE_PX), np.float32)
    elsewhere[:20] = 0
    assert face_of(6, visible=elsewhere) == face_of(6)
    assert face_of(6, visible=covered) < face_of(6) - 1
    assert face_of(6, is_interpolated=True) == pytest.approx(face_of(6) - 0.3)


def test_without_points_the_contrast_of_the_mouth_counts() -> None:
    flat = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
    lively = flat.copy()
    lively[60:70, 36:60], lively[70:78, 36:60] = 220, 20
    unknown = TrackedFrame(Frame(flat, 0, 0.0), None, AFFINE)
    dull, good = (candidate(unknown, crop_u8, gain=1.0, visible=None) for crop_u8 in (flat, lively))
    assert good.quality > dull.quality + 0.3
    assert dull.turn is None
    assert good.fits(dull) == good.quality
