"""Follows one face through a stream of frames and gives each frame a steady crop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentsync.faces.align import control_points, fit_as_released, fit_similarity, template
from latentsync.faces.choice import FaceChoice, Seen, parse_face_choice
from latentsync.faces.detect import FaceFinder
from latentsync.faces.follow import Follower, FollowSettings, Sight, face_from
from latentsync.faces.landmarks import Landmarker
from latentsync.types import AffineFrame, Face, Frame

__all__ = ["FaceChoice", "TrackSettings", "TrackedFrame", "parse_face_choice", "track"]


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """A frame, the face in it, and its crop; `face` and `affine` are None where there is no face.

    shot  changes where another shot begins, or the face was gone for long
    """

    frame: Frame
    face: Face | None
    affine: AffineFrame | None
    is_interpolated: bool = False
    shot: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSettings:
    """How a face is followed and its crop steadied.

    smoothing     "steady" is ours; "released" has the official sub-pixel bias; "none" leaves frames alone
    sigma_s       standard deviation of the smoothing
    gap_frames    longest run of frames without a face that is bridged
    ahead_frames  how many frames are held back, so the memory that tracking takes
    """

    smoothing: Literal["steady", "released", "none"] = "steady"
    sigma_s: float = 0.08
    gap_frames: int = 5
    ahead_frames: int = 12
    follow: FollowSettings = field(default_factory=FollowSettings)


@dataclass(slots=True)
class _Row:
    sight: Sight
    shot: int
    pose: Pose | None


def track(
    frames: Iterator[Frame],
    *,
    choice: FaceChoice,
    resolution: int,
    detector: FaceFinder,
    landmarker: Landmarker,
    settings: TrackSettings | None = None,
) -> Iterator[TrackedFrame]:
    """Give back every frame in order, with the chosen face and its crop where it is seen.

    At most `settings.ahead_frames` frames are held. At a shot cut the choice is made anew.

    Raises:
        FaceError: the first frame with faces does not have the one chosen.
    """
    settings = settings or TrackSettings()
    follower = follow(choice, detector, landmarker, settings.follow)
    crops = _Crops(resolution, settings)
    past: deque[_Row] = deque(maxlen=settings.ahead_frames)
    ahead: deque[_Row] = deque()
    for frame in frames:
        ahead.append(crops.row(follower.see(frame)))
        if len(ahead) > settings.ahead_frames:
            yield crops.crop(past, ahead)
            past.append(_without_picture(ahead.popleft()))
    while ahead:
        yield crops.crop(past, ahead)
        past.append(_without_picture(ahead.popleft()))


def follow(
    choice: FaceChoice, detector: FaceFinder, landmarker: Landmarker, settings: FollowSettings
) -> Follower | Found:
    """What sees the chosen face in each frame."""
    if choice.rule == "speaker":
        return Found(choice.seen)
    return Follower(choice, detector, landmarker, settings)


class Found:
    """Gives the faces that were chosen before."""

    def __init__(self, seen: Mapping[int, Seen]) -> None:
        self._seen = seen
        self._last: tuple[int, int] | None = None  # number and turn of the frame before

    def see(self, frame: Frame) -> Sight:
        number = frame.index if frame.source is None else frame.source
        found = self._seen.get(number, Seen(None, 0))
        # Where the video starts again, the face is elsewhere.
        is_near = self._last is not None and abs(number - self._last[0]) <= 1 and found.turn == self._last[1]
        self._last = number, found.turn
        return Sight(frame, found.points, 0.0 if found.points is None else 1.0, not is_near)


class _Crops:
    """Sorts sights into shots as they come, and turns the row that leaves into a crop."""

    def __init__(self, resolution: int, settings: TrackSettings) -> None:
        self._resolution = resolution
        self._settings = settings
        self._shot = 0
        self._missing_frames = 0
        self._last: Pose | None = None
        self._bias: NDArray[np.float64] | None = None

    def row(self, sight: Sight) -> _Row:
        if sight.points is None:
            self._missing_frames += 1
            self._shot += sight.is_new
            return _Row(sight, self._shot, None)
        near_rad = float(self._last.values[3]) if self._last else 0.0
        pose = pose_of(control_points(sight.points), sight.frame.time_s, near_rad=near_rad)
        # Smoothing must not reach across a gap that is too long to be bridged.
        if sight.is_new or self._missing_frames > self._settings.gap_frames:
            self._shot += 1
        self._missing_frames = 0
        self._last = pose
        return _Row(sight, self._shot, pose)

    def crop(self, past: deque[_Row], ahead: deque[_Row]) -> TrackedFrame:
        """The first row of `ahead`, with the rows around it."""
        row = ahead[0]
        frame = row.sight.frame
        if row.sight.points is not None:
            face = face_from(row.sight.points, row.sight.confidence)
            return TrackedFrame(frame, face, self._affine(row, face.points, past, ahead), shot=row.shot)
        face_between = self._between(row, past, ahead)
        if face_between is None:
            return TrackedFrame(frame, None, None, shot=row.shot)
        affine = self._affine(row, face_between.points, past, ahead)
        return TrackedFrame(frame, face_between, affine, is_interpolated=True, shot=row.shot)

    def _affine(
        self, row: _Row, points: NDArray[np.float32], past: deque[_Row], ahead: deque[_Row]
    ) -> AffineFrame:
        control = control_points(points)
        if self._settings.smoothing == "none":
            return AffineFrame(fit_similarity(control, self._resolution), self._resolution)
        if self._settings.smoothing == "released":
            matrix, self._bias = fit_as_released(control, self._resolution, bias=self._bias)
            return AffineFrame(matrix, self._resolution)
        poses = [near.pose for near in (*past, *ahead) if near.pose and near.shot == row.shot]
        values = smoothed(poses, row.sight.frame.time_s, sigma_s=self._settings.sigma_s)
        return AffineFrame(similarity_of(values, self._resolution), self._resolution)

    def _between(self, row: _Row, past: deque[_Row], ahead: deque[_Row]) -> Face | None:
        """The face halfway between the last and the next sight, if they are close and of one shot."""
        before = next((near for near in reversed(past) if near.pose), None)
        after = next((near for near in ahead if near.pose), None)
        if not before or not after or not before.shot == row.shot == after.shot:
            return None
        if before.sight.points is None or after.sight.points is None:
            return None
        start_s, end_s = before.sight.frame.time_s, after.sight.frame.time_s
        share = (row.sight.frame.time_s - start_s) / max(1e-9, end_s - start_s)
        points = (1 - share) * before.sight.points + share * after.sight.points
        return face_from(points.astype(np.float32), min(before.sight.confidence, after.sight.confidence))


def _without_picture(row: _Row) -> _Row:
    """The row without its pixels."""
    frame = Frame(np.zeros((0, 0, 3), np.uint8), row.sight.frame.index, row.sight.frame.time_s)
    return _Row(Sight(frame, row.sight.points, row.sight.confidence, row.sight.is_new), row.shot, row.pose)


@dataclass(frozen=True, slots=True)
class Pose:
    """A similarity as four numbers that may be averaged.

    values  (4,) x and y in the frame of the template's centre, log of the scale, angle in radians
    """

    values: NDArray[np.float64]
    time_s: float


def pose_of(control: NDArray[np.floating], time_s: float, *, near_rad: float = 0.0) -> Pose:
    """The pose of a frame from its control points (3, 2), its angle within half a turn of `near_rad`."""
    matrix = fit_similarity(control, 256)
    centre = control.mean(0, dtype=np.float64)
    angle = np.arctan2(matrix[1, 0], matrix[0, 0])
    # Otherwise angles on both sides of half a turn would average to an upright face.
    angle += 2 * np.pi * np.round((near_rad - angle) / (2 * np.pi))
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    # The logarithm, so that twice and half the size average to no change.
    return Pose(np.array([*centre, np.log(scale), angle]), time_s)


def similarity_of(values: NDArray[np.float64], resolution: int) -> NDArray[np.float64]:
    """The similarity (2, 3), window from frame, of a pose's four numbers."""
    scale = np.exp(values[2]) * resolution / 256
    cos, sin = scale * np.cos(values[3]), scale * np.sin(values[3])
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, template(resolution).mean(0) - turn @ values[:2]])


def smoothed(poses: list[Pose], time_s: float, *, sigma_s: float) -> NDArray[np.float64]:
    """The four numbers at `time_s`: a straight line fitted to the poses, Gaussian weights around that time.

    A line, not a mean, so that a steady motion is not pulled back at the ends of a shot, where all poses
    lie on one side. In the middle of a shot the two agree.
    """
    values = np.stack([pose.values for pose in poses])
    offset_s = np.array([pose.time_s for pose in poses]) - time_s
    weight = np.exp(-0.5 * (offset_s / sigma_s) ** 2)
    if weight.sum() < 1e-6:  # far from every pose: the nearest one
        return np.asarray(values[np.abs(offset_s).argmin()])
    weight /= weight.sum()
    mean_s, mean = weight @ offset_s, weight @ values
    # With all weight on one moment no slope can be fitted.
    spread = weight @ (offset_s - mean_s) ** 2
    if spread < 1e-9:
        return np.asarray(mean)
    slope = (weight * (offset_s - mean_s)) @ (values - mean) / spread
    return np.asarray(mean - slope * mean_s)
