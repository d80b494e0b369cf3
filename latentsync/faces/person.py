"""Who is meant by a point at a time or by a picture: looked up once, before a face is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentsync.errors import FaceError
from latentsync.faces.appearance import look_at
from latentsync.faces.choice import FaceChoice, choose
from latentsync.faces.detect import FaceFinder, area_px
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import Landmarker
from latentsync.types import Face, Frame, FrameImage


def person_at(frame: Frame, choice: FaceChoice, detector: FaceFinder, landmarker: Landmarker) -> FaceChoice:
    """The person at `choice.point` of a frame as a choice by the look, with the others in it.

    Raises:
        FaceError: there is no face at that point.
    """
    faces = _faces(frame.rgb_u8, detector, landmarker)
    chosen = choose(faces, replace(choice, rule="point"))
    if chosen is None:
        count = f"{len(faces)} face{'s' if len(faces) != 1 else ''}"
        where = ", ".join(f"{face.box[[0, 2]].mean():.0f},{face.box[[1, 3]].mean():.0f}" for face in faces)
        raise FaceError(
            f"--face: there is no face at {choice.point[0]:g},{choice.point[1]:g} after {choice.time_s:g} s,"
            f" but {count}{f' at {where}' if where else ''}",
            hint="choose one of these points, or another time",
        )
    return _by_look(frame.rgb_u8, chosen, faces)


def person_in(picture: FrameImage, path: Path, detector: FaceFinder, landmarker: Landmarker) -> FaceChoice:
    """The person with the largest face in a picture as a choice by the look.

    Raises:
        FaceError: there is no face in it.
    """
    faces = _faces(picture, detector, landmarker)
    if not faces:
        raise FaceError(f"'{path}': no face in it", hint="give a picture of the face from the front")
    return _by_look(picture, max(faces, key=area_px), faces[:0])


def _faces(rgb_u8: FrameImage, detector: FaceFinder, landmarker: Landmarker) -> list[Face]:
    return Follower(FaceChoice(), detector, landmarker, FollowSettings()).faces(rgb_u8)


def _by_look(rgb_u8: FrameImage, chosen: Face, faces: Sequence[Face]) -> FaceChoice:
    others = tuple(look_at(rgb_u8, face.points) for face in faces if face is not chosen)
    return FaceChoice("look", looks=(look_at(rgb_u8, chosen.points),), others=others)
