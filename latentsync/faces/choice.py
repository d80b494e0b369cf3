"""Which of several faces is meant: by size, position, a point, a picture, or by who speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import FaceError, UsageError
from latentsync.faces.appearance import Look
from latentsync.faces.detect import area_px
from latentsync.times import seconds_from
from latentsync.types import Face

_NUMBER = r"(\d+(?:\.\d+)?)"
Rule = Literal["largest", "left", "right", "index", "point", "point_at", "picture", "look", "speaker"]
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class Seen:
    """The chosen face in one frame: 68 points (68, 2) or None, and the number of the turn it belongs to."""

    points: NDArray[np.float32] | None
    turn: int


@dataclass(frozen=True, slots=True)
class Turn:
    """From when to when a face is the chosen one, in seconds from the first frame; person 0 is nobody."""

    start_s: float
    end_s: float
    person: int


@dataclass(frozen=True, slots=True)
class FaceChoice:
    """How one face is picked.

    index    counts from the left, 0 first
    point    x, y in pixels, in the first frame with faces or, for "point_at", in the frame at `time_s`
    picture  of the face
    looks    of the person, for "look": what "point_at" and "picture" become once they were looked up
    others   looks of people who are not meant
    seen     for "speaker", once that is known: the face by the number of the frame, as it is read
    turns    for "speaker": who speaks when
    """

    rule: Rule = "largest"
    index: int = 0
    point: tuple[float, float] = (0.0, 0.0)
    time_s: float = 0.0
    picture: Path | None = None
    looks: tuple[Look, ...] = field(default=(), compare=False)
    others: tuple[Look, ...] = field(default=(), compare=False)
    seen: Mapping[int, Seen] = field(default_factory=dict, compare=False, repr=False)
    turns: tuple[Turn, ...] = field(default=(), compare=False)


def parse_face_choice(text: str) -> FaceChoice:
    """Read what `--face` takes: largest, left, right, speaker, a number, x,y, @TIME:x,y, or a picture.

    Raises:
        UsageError: it is none of these.

    >>> parse_face_choice("640,360").point, parse_face_choice("@01:30.5:640,360").time_s
    ((640.0, 360.0), 90.5)
    """
    word = text.strip().lower()
    if word in ("largest", "left", "right", "speaker"):
        return FaceChoice(cast(Rule, word))
    if re.fullmatch(r"\d+", word):
        return FaceChoice("index", index=int(word))
    if match := re.fullmatch(rf"(?:@(.+):)?{_NUMBER}\s*,\s*{_NUMBER}", word):
        point = (float(match[2]), float(match[3]))
        if match[1] is None:
            return FaceChoice("point", point=point)
        return FaceChoice("point_at", point=point, time_s=seconds_from("--face", match[1]))
    if Path(word).suffix in PICTURES:
        return FaceChoice("picture", picture=Path(text.strip()))
    raise UsageError(
        f"--face '{text}': unknown value",
        hint="use largest, left, right, speaker, a number counted from the left (0 first), a pixel such as "
        "640,360, a pixel at a time such as @12.5:640,360, or a picture of the face",
    )


def choose(faces: Sequence[Face], choice: FaceChoice) -> Face | None:
    """The face that `choice` means, or None when there is none such."""
    from_left = sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))
    if choice.rule == "index":
        return from_left[choice.index] if choice.index < len(from_left) else None
    if not faces:
        return None
    if choice.rule == "left":
        return from_left[0]
    if choice.rule == "right":
        return from_left[-1]
    if choice.rule == "point":
        nearest = min(faces, key=lambda face: _boxes_away(face, choice.point))
        # A click beside the face still means it; one farther away means something else.
        return nearest if _boxes_away(nearest, choice.point) <= 1 else None
    return max(faces, key=area_px)


def choose_first(faces: Sequence[Face], choice: FaceChoice) -> Face:
    """`choose` in the first frame that has faces.

    Raises:
        FaceError: the face asked for is not among them.
    """
    face = choose(faces, choice)
    if face is not None:
        return face
    where = ", ".join(f"{point[0]:.0f},{point[1]:.0f}" for point in sorted(_centre(face) for face in faces))
    asked = (
        f"number {choice.index}" if choice.rule == "index" else f"at {choice.point[0]:g},{choice.point[1]:g}"
    )
    count = f"{len(faces)} face{'s' if len(faces) != 1 else ''}"
    raise FaceError(
        f"--face: there is no face {asked}; the first frame with faces has {count}, at {where}",
        hint=f"use a number from 0 to {len(faces) - 1} counted from the left, or one of these points",
    )


def _centre(face: Face) -> tuple[float, float]:
    return float(face.box[0] + face.box[2]) / 2, float(face.box[1] + face.box[3]) / 2


def _boxes_away(face: Face, point: tuple[float, float]) -> float:
    """Distance of a point from the centre of a face, in sides of its box."""
    offset = np.subtract(_centre(face), point)
    return float(np.abs(offset).max() / max(1.0, float(max(face.box[2:] - face.box[:2]))))
