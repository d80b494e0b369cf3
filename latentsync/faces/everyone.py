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
class Trail:
    """One face through one shot.

    number  counts the trails of a video
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
) -> Iterator[tuple[Frame, int, list[Trail]]]:
    """Give each frame back with the number of its shot and the faces that are seen in it.

    The same `Trail`s come again and again, and grow. A face that is lost and found again in one shot stays
    one trail if it looks alike.
    """
    crowd = _Crowd(detector, landmarker, settings)
    for frame in frames:
        seen = crowd.see(frame)
        yield frame, crowd.shot, seen


class _Crowd:
    def __init__(self, detector: FaceFinder, landmarker: Landmarker, settings: FollowSettings) -> None:
        self._finder = Follower(FaceChoice(), detector, landmarker, settings)
        self._settings = settings
        self._shown: list[Trail] = []  # in the frame before
        self._lost: list[Trail] = []  # earlier in this shot
        self._trails = 0
        self._unchecked_frames = 0
        self.shot = 0

    def see(self, frame: Frame) -> list[Trail]:
        is_jump = self._finder.has_jumped(frame.picture)
        kept = {trail.number: self._finder.points_near(frame.picture, trail.last)[0] for trail in self._shown}
        steady = [
            trail
            for trail in self._shown
            if (points := kept[trail.number]) is not None
            and moved(trail.last, points) < self._settings.same_position
        ]
        if is_jump and not steady:
            self.shot += 1
            self._shown, self._lost = [], []
            kept = {}
        before, self._shown = self._shown, []
        for trail in before:
            points = kept[trail.number]
            if points is None or any(is_same_place(other.last, points) for other in self._shown):
                self._lost.append(trail)
            else:
                trail.points[frame.index] = points
                self._shown.append(trail)
        self._unchecked_frames += 1
        is_due = self._unchecked_frames >= self._settings.check_every_frames
        if is_due or is_jump or len(self._shown) < len(before) or not frame.index:
            self._unchecked_frames = 0
            self._meet(frame)
        return list(self._shown)

    def _meet(self, frame: Frame) -> None:
        """Look in the whole frame: confirm who is known, and begin trails of others."""
        faces = self._finder.faces(frame.picture)
        for trail in list(self._shown):
            own = [face for face in faces if is_same_place(trail.last, face.points)]
            look = look_at(frame.picture, trail.last)
            is_other = self._looks_like_another(trail, look)
            trail.strikes = 0 if own else trail.strikes + 1
            if is_other or trail.strikes > 2:
                del trail.points[frame.index]
                self._shown.remove(trail)
                if trail.points:
                    self._lost.append(trail)
            elif own:
                trail.looks.learn(look)
        for face in faces:
            if len(self._shown) >= MOST_FACES:
                break
            if not any(is_same_place(trail.last, face.points) for trail in self._shown):
                self._begin(frame, face)

    def _looks_like_another(self, trail: Trail, look: Look) -> bool:
        """Whether what is followed has become somebody else, who passed in front; light alone changes too."""
        own = trail.looks.unlike(look)
        others = (other.looks.unlike(look) for other in (*self._shown, *self._lost) if other is not trail)
        return own >= 1 and min(others, default=np.inf) < own

    def _begin(self, frame: Frame, face: Face) -> None:
        look = look_at(frame.picture, face.points)
        again = min(self._lost, key=lambda trail: trail.looks.unlike(look), default=None)
        if again is not None and again.looks.unlike(look) < 1:
            self._lost.remove(again)
            trail = again
        else:
            self._trails += 1
            trail = Trail(self._trails, self.shot)
        trail.points[frame.index], trail.strikes = face.points, 0
        trail.looks.learn(look)
        self._shown.append(trail)
