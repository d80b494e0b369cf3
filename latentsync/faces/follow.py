"""Follows the chosen face from frame to frame: finds it, keeps it, notices cuts, finds it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.faces.appearance import Look, Looks, look_at
from latentsync.faces.choice import FaceChoice, choose, choose_first
from latentsync.faces.detect import FaceFinder
from latentsync.faces.landmarks import SQUARE_PER_EXTENT, Landmarker, Square, square_around
from latentsync.types import Face, Frame, Picture, whole

THUMBNAIL = (64, 36)
OFF_CENTRE = 0.15  # extents: a square farther beside the face is centred on it
SAME_FACE = 0.5  # extents between two faces that are one
SAMPLES = 4  # a side, at least, that are averaged for a pixel of the thumbnail
# A detected box reaches from the hair to the chin; the 68 points begin at the brows. Source: eight videos.
EXTENT_PER_BOX_HEIGHT = 0.8
DOWN_PER_EXTENT = 0.12
OTHER_SHOT = 1.3  # a person looks less like themselves in other light; 24 people differ by that at least
CHECK_AROUND = 2.2  # squares: how far around the face a check looks
CHECK_PX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """When to look for the face afresh, and when to believe that it is the same one.

    Distances are in extents: sides of the smallest square around the 68 points.
    """

    check_every_frames: int = 12
    confidence: float = 0.5  # of the landmark network; below, there is no face
    sure: float = 0.9  # above, the network is believed for longer than the detector
    cut_levels: float = 16.0  # mean change of a thumbnail in grey levels that may be a cut
    same_position: float = 0.06  # a face that moves less is the same in spite of such a change
    largest_step: float = 0.5  # a face that moves more between two frames is another one
    forget_frames: int = 50  # after so long without it, the choice is made anew


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen in a frame: 68 points or None. `is_new` where a shot or another position begins."""

    frame: Frame
    points: NDArray[np.float32] | None
    confidence: float
    is_new: bool


class Follower:
    """Keeps one identity from frame to frame."""

    def __init__(
        self, choice: FaceChoice, detector: FaceFinder, landmarker: Landmarker, settings: FollowSettings
    ) -> None:
        self._choice = choice
        self._detector = detector
        self._landmarker = landmarker
        self._settings = settings
        self._last: Sight | None = None
        self._thumbnail: NDArray[np.float32] | None = None
        self._points: NDArray[np.float32] | None = None  # in the frame before
        self._known: NDArray[np.float32] | None = None  # where the face was last, however long ago
        self._lost_frames = 0
        self._unchecked_frames = 0
        self._strikes = 0
        self._own, self._others = Looks(), Looks()  # of the chosen person, and of the others in this shot
        self._know_chosen()
        self._is_hidden = False  # another face was seen where the chosen one was expected

    def see(self, frame: Frame) -> Sight:
        """The chosen face in the next frame. A picture that is shown again is not looked at again."""
        if self._last is not None and frame.picture is self._last.frame.picture:
            return replace(self._last, frame=frame, is_new=False)
        self._last = self._look(frame)
        return self._last

    def _look(self, frame: Frame) -> Sight:
        is_jump = self.has_jumped(frame.picture)
        before = self._points
        points, confidence = (None, 0.0) if before is None else self.points_near(frame.picture, before)
        is_cut = is_jump and (
            before is None or points is None or moved(before, points) > self._settings.same_position
        )
        if is_cut:
            points = None
            self._own.forget()
            self._others.forget()
            self._know_chosen()
        is_doubted = points is not None and self._looks_otherwise(frame.picture, points)
        if is_doubted:
            points = None
        if points is not None and self._unchecked_frames >= self._settings.check_every_frames:
            points = self._check(frame.picture, points, confidence)
        if points is None and (is_cut or is_doubted or self._is_time_to_look()):
            points, confidence = self._find(frame.picture, is_cut)
        is_new = is_cut
        if points is None:
            self._is_hidden |= is_doubted
        else:  # what was hidden must not be interpolated: the other person was in front of it
            is_new, self._is_hidden = is_new or self._is_hidden, False
        if points is not None and self._known is not None:
            is_new |= moved(self._known, points) > self._settings.largest_step * (1 + self._lost_frames)
        self._remember(points)
        return Sight(frame, points, confidence if points is not None else 0.0, bool(is_new))

    def _know_chosen(self) -> None:
        """Begin with the looks of the person who was chosen by the look."""
        for look in self._choice.looks:
            self._own.learn(look)
        for look in self._choice.others:
            self._others.learn(look)

    def has_jumped(self, rgb_u8: Picture) -> bool:
        """Whether this frame looks so unlike the one before that a shot may begin."""
        step = max(1, min(rgb_u8.shape[1] // THUMBNAIL[0], rgb_u8.shape[0] // THUMBNAIL[1]) // SAMPLES)
        small = cv2.resize(rgb_u8[::step, ::step], THUMBNAIL, interpolation=cv2.INTER_AREA)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)
        before, self._thumbnail = self._thumbnail, grey
        return before is not None and float(np.abs(grey - before).mean()) > self._settings.cut_levels

    def points_near(
        self, rgb_u8: Picture, before: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, float]:
        """The points of the face that had the points `before` in the frame before, and the confidence."""
        points, confidence = self._landmarker.points(rgb_u8, square_around(before))
        if moved(before, points) > OFF_CENTRE:
            points, confidence = self._landmarker.points(rgb_u8, square_around(points))
        is_same = moved(before, points) < self._settings.largest_step
        is_face = confidence >= self._settings.confidence and 0.7 < growth(before, points) < 1.4
        return (points, confidence) if is_face and is_same else (None, confidence)

    def _looks_otherwise(self, rgb_u8: Picture, points: NDArray[np.float32]) -> bool:
        """Whether the face that was followed may have become another person's, who passes in front."""
        look = look_at(rgb_u8, points)
        own = self._own.unlike(look)
        return bool(self._own) and (own >= 1 or self._others.unlike(look) < own)

    def _check(
        self, rgb_u8: Picture, points: NDArray[np.float32], confidence: float
    ) -> NDArray[np.float32] | None:
        """Ask the detector, too, looking only around the face; None if it keeps seeing nothing there."""
        self._unchecked_frames = 0
        centre_x, centre_y, side = square_around(points)
        reach = CHECK_AROUND * side / 2
        left, top = max(0, int(centre_x - reach)), max(0, int(centre_y - reach))
        region = rgb_u8[top : int(centre_y + reach), left : int(centre_x + reach)]
        if min(region.shape[:2]) < 8:
            return None
        zoom = CHECK_PX / max(region.shape[:2])
        size = (max(24, round(region.shape[1] * zoom)), max(24, round(region.shape[0] * zoom)))
        small = np.asarray(cv2.resize(region, size, interpolation=cv2.INTER_AREA), np.uint8)
        own, others = 0, 0
        for face in self._detector.detect(small):
            found_x, found_y, found_side = (value / zoom for value in _square_of(face))
            square = (found_x + left, found_y + top, found_side)
            if np.hypot(square[0] - centre_x, square[1] - centre_y) < 0.5 * side / SQUARE_PER_EXTENT:
                own += 1
            else:
                others += 1
                self._meet(rgb_u8, square)
        if own and not others:  # with somebody so near, half of what is seen may be theirs
            self._own.learn(look_at(rgb_u8, points))
        if own:
            self._strikes = 0
            return points
        self._strikes += 1
        is_given_up = self._strikes >= (6 if confidence >= self._settings.sure else 2)
        return None if is_given_up else points

    def _meet(self, rgb_u8: Picture, square: Square) -> None:
        """Remember the look of somebody else."""
        points, confidence = self._landmarker.points(rgb_u8, square)
        if confidence >= self._settings.confidence:
            self._know_other(look_at(rgb_u8, points))

    def _know_other(self, look: Look) -> None:
        if self._own.unlike(look) >= 1:
            self._others.learn(look)

    def _is_time_to_look(self) -> bool:
        """Every frame at first, every fourth once the face has been away for a while."""
        return self._lost_frames < self._settings.check_every_frames or self._lost_frames % 4 == 0

    def _find(self, rgb_u8: Picture, is_cut: bool) -> tuple[NDArray[np.float32] | None, float]:
        """Look for the face in the whole frame."""
        faces = self.faces(rgb_u8)
        if not faces:
            return None, 0.0
        looks = [look_at(rgb_u8, face.points) for face in faces]
        number = self._recognised(faces, looks, is_cut)
        if number is None:
            return None, 0.0
        self._own.learn(looks[number])
        for other, look in enumerate(looks):
            if other != number:
                self._know_other(look)
        return faces[number].points, faces[number].score

    def _recognised(self, faces: list[Face], looks: list[Look], is_cut: bool) -> int | None:
        """Which of the faces is the chosen one, if any is."""
        if self._choice.rule == "look":
            return self._most_alike(looks)
        if self._known is None:
            return _position(faces, choose_first(faces, self._choice))
        if is_cut:
            return _position(faces, choose(faces, self._choice))
        own = [self._own.unlike(look) for look in looks]
        is_other = [self._others.unlike(look) < unlike for look, unlike in zip(looks, own, strict=True)]
        if self._lost_frames > self._settings.forget_frames:
            return self._chosen_anew(faces, own, is_other)
        return self._same(faces, own, is_other)

    def _most_alike(self, looks: list[Look]) -> int | None:
        """The face that looks most like the chosen person, unless it looks more like somebody else."""
        own = [self._own.unlike(look) for look in looks]
        number = min(range(len(looks)), key=lambda number: own[number])
        is_alike = own[number] < OTHER_SHOT and own[number] <= self._others.unlike(looks[number])
        return number if is_alike else None

    def _chosen_anew(self, faces: list[Face], own: list[float], is_other: list[bool]) -> int | None:
        """The chosen person, else the face that the choice means now, unless it is a known other one."""
        alike = [number for number in range(len(faces)) if own[number] < 1 and not is_other[number]]
        if alike:
            return min(alike, key=lambda number: own[number])
        number = _position(faces, choose(faces, self._choice))
        if number is None or is_other[number]:
            return None
        self._own.forget()
        return number

    def faces(self, rgb_u8: Picture) -> list[Face]:
        """Every face that both the detector and the landmark network believe in."""
        faces: list[Face] = []
        for found in self._detector.detect(whole(rgb_u8)):
            points, _ = self._landmarker.points(rgb_u8, _square_of(found))
            points, confidence = self._landmarker.points(rgb_u8, square_around(points))
            face = face_from(points, confidence)
            is_double = any(is_same_place(other.points, points) for other in faces)
            if confidence >= self._settings.confidence and not is_double:
                faces.append(face)
        return faces

    def _same(self, faces: list[Face], own: list[float], is_other: list[bool]) -> int | None:
        """The face near where it was last seen, of like size, that looks like it and like nobody else."""
        known, reach = self._known, self._settings.largest_step * (1 + 0.2 * self._lost_frames)
        assert known is not None
        near = [
            number
            for number, face in enumerate(faces)
            if moved(known, face.points) < reach and 0.6 < growth(known, face.points) < 1.67
        ]
        alike = [number for number in near if own[number] < 1 and not is_other[number]]
        if not alike and len(near) == 1 and not is_other[near[0]]:
            alike = near  # alone, it is the same face in another light
        return min(alike, key=lambda number: own[number], default=None)

    def _remember(self, points: NDArray[np.float32] | None) -> None:
        self._unchecked_frames += 1
        if points is None:
            self._lost_frames += 1
            self._unchecked_frames = self._strikes = 0
        else:
            self._lost_frames = 0
            self._known = points
        self._points = points


def face_from(points: NDArray[np.float32], score: float) -> Face:
    """A face whose box is the smallest around its points."""
    return Face(np.concatenate([points.min(0), points.max(0)]).astype(np.float32), score, points)


def _position(faces: list[Face], face: Face | None) -> int | None:
    """The number of a face in a list, by identity: arrays have no equality of one truth."""
    return next((number for number, other in enumerate(faces) if other is face), None)


def _square_of(face: Face) -> Square:
    """The landmark network's square for a detected box."""
    left, top, right, bottom = (float(edge) for edge in face.box)
    extent = EXTENT_PER_BOX_HEIGHT * max(bottom - top, right - left)
    return (left + right) / 2, (top + bottom) / 2 + DOWN_PER_EXTENT * extent, SQUARE_PER_EXTENT * extent


def _extent(points: NDArray[np.float32]) -> float:
    return max(1e-6, float((points.max(0) - points.min(0)).max()))


def growth(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """How many times as large a face became."""
    return _extent(after) / _extent(before)


def is_same_place(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether the points of two faces in one frame are those of one face."""
    return moved(one, other) < SAME_FACE


def moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """How far a face moved, in extents."""
    return float(np.linalg.norm(after.mean(0) - before.mean(0))) / _extent(before)
