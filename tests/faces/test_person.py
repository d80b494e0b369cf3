"""One person is found by the look: at a point of some frame, in a picture, and again after a cut."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.errors import FaceError
from latentsync.faces.choice import FaceChoice, parse_face_choice
from latentsync.faces.detect import Detector
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.person import person_at, person_in
from latentsync.media.read import read_frames
from latentsync.types import Frame, FrameImage

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.mp4"


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return choose_landmarker()


@pytest.fixture(scope="module")
def people() -> tuple[FrameImage, FrameImage]:
    """Our portrait, and somebody with another colour of skin and hair."""
    own = next(iter(read_frames(PORTRAIT))).rgb_u8
    lab = cv2.cvtColor(own, cv2.COLOR_RGB2LAB).astype(np.float32) * [0.75, 1, 1] + [0, -6, 14]
    other = cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
    return own, np.ascontiguousarray(other[:, ::-1])


def sides(follower: Follower, frames: list[FrameImage]) -> list[str]:
    """In which half of each frame the followed face is."""
    found = []
    for number, rgb_u8 in enumerate(frames):
        points = follower.see(Frame(rgb_u8, number, number / 25)).points
        is_left = points is not None and float(points[:, 0].mean()) < rgb_u8.shape[1] / 2
        found.append("nobody" if points is None else "left" if is_left else "right")
    return found


def test_the_person_at_a_point_is_found_after_cuts(
    people: tuple[FrameImage, FrameImage], landmarker: Landmarker
) -> None:
    own, other = people
    detector = Detector()
    both, swapped = np.hstack([own, other]), np.hstack([other, own])
    alone = np.hstack([other, np.full_like(own, 30)])
    choice = person_at(Frame(both, 0, 0.0), parse_face_choice("@0:720,240"), detector, landmarker)
    assert (choice.rule, len(choice.looks), len(choice.others)) == ("look", 1, 1)
    film = [both, both, swapped, swapped, alone]
    follow = FollowSettings(check_every_frames=1)
    assert sides(Follower(choice, detector, landmarker, follow), film) == ["right"] * 2 + ["left"] * 3
    left = person_in(own, Path("own.jpg"), detector, landmarker)
    expected = ["left"] * 2 + ["right"] * 2 + ["nobody"]
    assert sides(Follower(left, detector, landmarker, follow), film) == expected


def test_a_point_without_a_face_names_those_that_there_are(
    people: tuple[FrameImage, FrameImage], landmarker: Landmarker
) -> None:
    choice = FaceChoice("point_at", point=(5, 5), time_s=2.0)
    with pytest.raises(FaceError, match=r"no face at 5,5 after 2 s, but 1 face at \d+,\d+"):
        person_at(Frame(people[0], 0, 0.0), choice, Detector(), landmarker)
    with pytest.raises(FaceError, match=r"'grey\.png': no face in it"):
        person_in(np.full((200, 200, 3), 90, np.uint8), Path("grey.png"), Detector(), landmarker)
