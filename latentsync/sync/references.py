"""Which frame of the source is the reference of a window, for networks that warp one.

With the frame itself as its reference, its own mouth would show in the new one. So all frames of a window get
one reference, which stays until another frame is clearly better.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.faces.landmarks import POINTS, lip_openings, nose_from_eyes
from latentsync.faces.paste import mouth_region
from latentsync.faces.track import TrackedFrame
from latentsync.types import FrameImage

MOST_KEPT = 8  # crops, of one shot
CLEARLY_BETTER = 0.25  # a change of the reference is visible: the lips and teeth of another moment
FADE_FRAMES = 8
# Lip openings, in eye distances: from OPEN on teeth and the dark of the mouth show; a yawn, whose lips are
# stretched, is as bad as a closed mouth.
OPEN, WIDE, YAWN = 0.12, 0.35, 0.7
CONTRAST = 0.5  # between teeth and the dark of the mouth, of 255 levels; more is not better
OPENING_SHARE = 0.6  # of the quality of a mouth; the rest is its contrast
PER_TURN = 2.0  # score that a nose which is moved by an eye distance costs: 0.7 for a turn by 30 degrees
PER_STOP = 0.5  # score that twice the light costs
PER_COVER = 4.0  # score that a wholly covered mouth costs
UNSEEN = 0.3  # score that a face costs whose points lie between those of other frames
ROWS, COLUMNS = (0.58, 0.84), (0.33, 0.67)  # of a mouth in an aligned crop, as shares of its side


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that may be a reference.

    crop_u8  (h w c) in ordinary light
    shot     that it belongs to
    quality  of its mouth alone, 1 at best
    gain     what brought it to that light
    turn     (2,) the nose's position between the eyes and below them, in eye distances; None: unknown
    """

    crop_u8: FrameImage
    shot: int
    quality: float
    gain: float
    turn: NDArray[np.float64] | None

    def fits(self, other: Candidate) -> float:
        """How good a reference it is for a frame with the pose and the light of `other`."""
        return self.quality - _distance(self, other)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the frames of a window are given.

    crop_u8    (h w c) in ordinary light
    before_u8  what the window before had, from which the first `FADE_FRAMES` fade; None: the same
    """

    crop_u8: FrameImage
    before_u8: FrameImage | None = None


class References:
    """Chooses the reference of one window after another, from the frames of this shot so far."""

    def __init__(self) -> None:
        self._kept: list[Candidate] = []
        self._current: Candidate | None = None

    def choose(self, frames: Sequence[Candidate]) -> Reference:
        """The reference of a window of frames, all of one shot."""
        if self._current is not None and self._current.shot != frames[0].shot:
            self._kept, self._current = [], None
        like, before = _typical(frames), self._current
        self._keep(max(frames, key=lambda frame: frame.fits(like)))
        best = max(self._kept, key=lambda kept: kept.fits(like))
        if before is not None and best.fits(like) < before.fits(like) + CLEARLY_BETTER:
            return Reference(before.crop_u8)
        self._current = best
        return Reference(best.crop_u8, None if before is None else before.crop_u8)

    def _keep(self, candidate: Candidate) -> None:
        """Keep it; of one too many, the two that are most alike, the worse one goes."""
        self._kept.append(candidate)
        if len(self._kept) > MOST_KEPT:
            pairs = combinations(range(len(self._kept)), 2)
            alike = min(pairs, key=lambda pair: _distance(*(self._kept[number] for number in pair)))
            del self._kept[min(alike, key=lambda number: self._kept[number].quality)]


def candidate(
    tracked: TrackedFrame, crop_u8: FrameImage, *, gain: float, visible: NDArray[np.float32] | None
) -> Candidate:
    """What is known of a tracked frame as a reference.

    Args:
        crop_u8: (h w c) in ordinary light, into which `gain` brought it.
        visible: (h w) over the crop, 0..1, where nothing is in front of the face; None: nowhere anything.
    """
    face, affine = tracked.face, tracked.affine
    if face is None or affine is None or len(face.points) != POINTS:
        mouth, openness, turn = _usual_mouth(len(crop_u8)), 1.0, None
    else:
        mouth = mouth_region(face.points, affine, side_px=len(crop_u8)) > 0
        # Pixels of the frame need not be square, those of the upright window are.
        upright = (face.points @ affine.crop_from_frame[:, :2].T + affine.crop_from_frame[:, 2])[None]
        openness, turn = _openness(float(lip_openings(upright)[0])), nose_from_eyes(upright)[0]
    quality = OPENING_SHARE * openness + (1 - OPENING_SHARE) * _contrast(crop_u8[mouth])
    if visible is not None and mouth.any():
        shown = cv2.resize(visible, crop_u8.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        quality -= PER_COVER * (1 - float(shown[mouth].mean()))
    if tracked.is_interpolated:
        quality -= UNSEEN
    return Candidate(crop_u8, tracked.shot, quality, gain, turn)


def _typical(frames: Sequence[Candidate]) -> Candidate:
    """A frame with the pose and light of a window."""
    turns = [frame.turn for frame in frames if frame.turn is not None]
    turn = np.median(turns, axis=0) if turns else None
    gain = float(np.median([frame.gain for frame in frames]))
    return Candidate(frames[0].crop_u8, frames[0].shot, 0.0, gain, turn)


def _distance(one: Candidate, other: Candidate) -> float:
    """How far pose and light are apart, as a score."""
    light = PER_STOP * abs(float(np.log2(one.gain / other.gain)))
    if one.turn is None or other.turn is None:
        return light
    return light + PER_TURN * float(np.linalg.norm(one.turn - other.turn))


def _openness(opening: float) -> float:
    """How much of a mouth shows, 0..1, at a lip opening in eye distances."""
    return float(np.interp(opening, (0, OPEN, WIDE, YAWN), (0, 1, 1, 0)))


def _contrast(colours_u8: NDArray[np.uint8]) -> float:
    """How far bright and dark are apart in the pixels (n c) of a mouth: 0..1."""
    if len(colours_u8) == 0:
        return 0.0
    # Of the darkest channel: lips and tongue have little blue, teeth have as much of it as of the others.
    dark, bright = np.percentile(colours_u8.min(1), (5, 95))
    return float(min(1.0, (bright - dark) / 255 / CONTRAST))


def _usual_mouth(side: int) -> NDArray[np.bool_]:
    """Where a mouth lies in an aligned crop (h w) whose points are not known."""
    usual = np.zeros((side, side), bool)
    rows, columns = (slice(round(first * side), round(last * side)) for first, last in (ROWS, COLUMNS))
    usual[rows, columns] = True
    return usual
