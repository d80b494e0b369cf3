"""Follows every face of a video at once, shot by shot, before it is known which of them is meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latentsync.faces.appearance import Look, Looks, look_at
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import FaceFinder
from latentsync.faces.follow import Follower, FollowSettings, is_same_place, moved
from latentsync.faces.landmarks import Landmarker
from latentsync.types import Face, Frame

MOST_FACES = 8  # that are followed at once: the largest


@dataclass(slots=True)
class FaceTrack:
    """One face through one shot.

    number  counts the tracks of a video
    shot    counts its shots
    points  68 points (68, 2) by the number of the frame
    """

    number: int
    shot: int
    points: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    looks: Looks = field(default_factory=Looks)
    strikes: int = 0

    @property
    def last(self) -> NDArray[np.float32]:
        return self.points[next(reversed(self.points))]

    @property
    def last_seen(self) -> int:
        return next(reversed(self.points))


def follow_everyone(
    frames: Iterable[Frame],
    *,
    detector: FaceFinder,
    landmarker: Landmarker,
    settings: FollowSettings,
) -> Iterator[tuple[Frame, int, list[FaceTrack]]]:
    """Give each frame back with the number of its shot and the faces that are seen in it.

    The same `FaceTrack`s come again and again, and grow. A face that is lost and found again in one shot
    stays one track if it looks alike.
    """
    tracker = _EveryoneTracker(detector, landmarker, settings)
    for frame in frames:
        seen = tracker.see(frame)
        yield frame, tracker.shot, seen


class _EveryoneTracker:
    def __init__(self, detector: FaceFinder, landmarker: Landmarker, settings: FollowSettings) -> None:
        self._finder = Follower(FaceChoice(), detector, landmarker, settings)
        self._settings = settings
        self._shown: list[FaceTrack] = []  # in the frame before
        self._lost: list[FaceTrack] = []  # earlier in this shot
        self._count = 0
        self._unchecked_frames = 0
        self.shot = 0

    def see(self, frame: Frame) -> list[FaceTrack]:
        is_jump = self._finder.has_jumped(frame.picture)
        kept = {
            face_track.number: self._finder.points_near(frame.picture, face_track.last)[0]
            for face_track in self._shown
        }
        steady = [
            face_track
            for face_track in self._shown
            if (points := kept[face_track.number]) is not None
            and moved(face_track.last, points) < self._settings.same_position
        ]
        if is_jump and not steady:
            self.shot += 1
            self._shown, self._lost = [], []
            kept = {}
        before, self._shown = self._shown, []
        for face_track in before:
            points = kept[face_track.number]
            if points is None or any(is_same_place(other.last, points) for other in self._shown):
                self._lost.append(face_track)
            else:
                face_track.points[frame.index] = points
                self._shown.append(face_track)
        self._unchecked_frames += 1
        is_due = self._unchecked_frames >= self._settings.check_every_frames
        if is_due or is_jump or len(self._shown) < len(before) or not frame.index:
            self._unchecked_frames = 0
            self._meet(frame)
        return list(self._shown)

    def _meet(self, frame: Frame) -> None:
        """Look in the whole frame: confirm who is known, and begin face_tracks of others."""
        faces = self._finder.faces(frame.picture)
        for face_track in list(self._shown):
            own = [face for face in faces if is_same_place(face_track.last, face.points)]
            look = look_at(frame.picture, face_track.last)
            is_other = self._looks_like_another(face_track, look)
            face_track.strikes = 0 if own else face_track.strikes + 1
            if is_other or face_track.strikes > 2:
                del face_track.points[frame.index]
                self._shown.remove(face_track)
                if face_track.points:
                    self._lost.append(face_track)
            elif own:
                face_track.looks.learn(look)
        for face in faces:
            if len(self._shown) >= MOST_FACES:
                break
            if not any(is_same_place(face_track.last, face.points) for face_track in self._shown):
                self._begin(frame, face)

    def _looks_like_another(self, face_track: FaceTrack, look: Look) -> bool:
        """Whether what is followed has become somebody else, who passed in front; light alone changes too."""
        own = face_track.looks.unlike(look)
        others = (
            other.looks.unlike(look) for other in (*self._shown, *self._lost) if other is not face_track
        )
        return own >= 1 and min(others, default=np.inf) < own

    def _begin(self, frame: Frame, face: Face) -> None:
        look = look_at(frame.picture, face.points)
        again = min(self._lost, key=lambda face_track: face_track.looks.unlike(look), default=None)
        if again is not None and again.looks.unlike(look) < 1:
            self._lost.remove(again)
            face_track = again
        else:
            self._count += 1
            face_track = FaceTrack(self._count, self.shot)
        face_track.points[frame.index], face_track.strikes = face.points, 0
        face_track.looks.learn(look)
        self._shown.append(face_track)
