"""Which face is meant."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync.errors import FaceError, UsageError
from latentsync.faces.choice import FaceChoice, choose, choose_first, parse_face_choice
from latentsync.types import Face


def _face(left: float, side: float) -> Face:
    box = np.array([left, 10, left + side, 10 + side], np.float32)
    return Face(box, 1.0, np.zeros((68, 2), np.float32))


FACES = [_face(200, 40), _face(10, 30), _face(400, 90)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("largest", 2),
        ("left", 1),
        ("right", 2),
        ("0", 1),
        ("1", 0),
        ("2", 2),
        ("220,30", 0),
        (" 20 , 20 ", 1),
    ],
)
def test_choice_finds_its_face(text: str, expected: int) -> None:
    assert choose(FACES, parse_face_choice(text)) is FACES[expected]


@pytest.mark.parametrize("text", ["", "middle", "-1", "1.5", "3,", "1,2,3"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown value"):
        parse_face_choice(text)


def test_a_number_too_high_says_how_many_there_are() -> None:
    with pytest.raises(FaceError, match=r"no face number 3.* has 3 faces"):
        choose_first(FACES, FaceChoice("index", index=3))


def test_a_point_without_a_face_names_where_faces_are() -> None:
    with pytest.raises(FaceError, match="25,25, 220,30, 445,55"):
        choose_first(FACES, FaceChoice("point", point=(900, 900)))
