"""What a face looks like, cheaply: enough to tell the few people of one shot apart."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.faces.landmarks import cut_square, square_around
from latentsync.types import Picture

SQUARE_PX, PICTURE_PX = 64, 6
INNER = slice(12, 52)  # of the square: the face without what is behind it
ELLIPSE = (0.40, 0.46)  # half axes of the face in its square, as shares of the side
BINS = (6, 12, 12)  # of lightness and the two colours of CIELAB
RANGES = (0, 256, 96, 176, 96, 176)  # colours of skin, hair and lips lie well inside
# A distance of 1 separates people: of 24, 3 s each, all lie within 0.86 of their first half, and 1.30 or more
# from each other.
PICTURE_UNIT, HISTOGRAM_UNIT = 16.0, 0.36
NEW_BEYOND = 0.4  # a look that is nearer to a known one tells nothing new
MOST_LOOKS = 24


@dataclass(frozen=True, slots=True)
class Look:
    """One sight of a face.

    picture    (n 3) CIELAB of a tiny picture, its mean lightness taken away
    histogram  (n,) square roots of the shares of colours, so that distances are Hellinger's
    """

    picture: NDArray[np.float32]
    histogram: NDArray[np.float32]

    def unlike(self, other: Look) -> float:
        """How different two faces look: below 1 the same person in one shot, above it another."""
        picture = np.sqrt(((self.picture - other.picture) ** 2).sum(1).mean()) / PICTURE_UNIT
        histogram = np.linalg.norm(self.histogram - other.histogram) / HISTOGRAM_UNIT
        # The mean: the picture changes as a head turns, the histogram as light changes; seldom both do.
        return float(picture + histogram) / 2


def look_at(rgb_u8: Picture, points: NDArray[np.float32]) -> Look:
    """The look of the face with these 68 points (68, 2) in a frame."""
    square = cut_square(rgb_u8, square_around(points), size_px=SQUARE_PX)
    lab = np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2LAB), np.uint8)  # h w c
    small = cv2.resize(lab.astype(np.float32), (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA)
    picture = small[_inside()]
    picture[:, 0] -= picture[:, 0].mean()
    inner = np.ascontiguousarray(lab[INNER, INNER])
    counts = cv2.calcHist([inner], [0, 1, 2], None, list(BINS), list(RANGES)).reshape(BINS[0], -1)
    # Softly, or a face that becomes a little brighter would have no colour in common with itself.
    counts = cv2.GaussianBlur(counts, (0, 0), 0.7)
    return Look(picture, np.sqrt(counts.ravel() / max(1e-6, float(counts.sum()))).astype(np.float32))


def _inside() -> NDArray[np.bool_]:
    """Which pixels of the tiny picture (h w) show the face."""
    offset = (np.arange(PICTURE_PX) - PICTURE_PX / 2 + 0.5) / PICTURE_PX
    return np.asarray((offset / ELLIPSE[0]) ** 2 + (offset[:, None] / ELLIPSE[1]) ** 2 < 1)


class Looks:
    """What is known of one person's look, from several sights."""

    def __init__(self) -> None:
        self._known: deque[Look] = deque(maxlen=MOST_LOOKS)

    def __bool__(self) -> bool:
        return bool(self._known)

    def unlike(self, look: Look) -> float:
        """How different a face looks from what is known; infinite where nothing is."""
        return min((known.unlike(look) for known in self._known), default=np.inf)

    def learn(self, look: Look) -> None:
        """Remember a look, if it is new."""
        if self.unlike(look) > NEW_BEYOND:
            self._known.append(look)

    def forget(self) -> None:
        """Know nothing, as at the start."""
        self._known.clear()
