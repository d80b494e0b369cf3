"""What is in front of the mouth stays in front: which pixels, and which whole frames, keep the source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.faces.landmarks import nose_beside_eyes
from latentsync.faces.occlusion import INPUT_PX
from latentsync.faces.paste import face_region, mouth_region, soft_mouth
from latentsync.sync.generate import CutFrame, Why, brightened, light_gain
from latentsync.types import FrameImage

Rule = Literal["keep", "skip"]
REACH_FRAMES = 2  # before and after a frame, over which what was found is averaged
NEAR_WEIGHTS = (4.0, 2.0, 1.0)  # of a frame itself and of those one and two away
LIKELY, SURE = 0.3, 0.6  # by the network
LEAST_SHARE = 0.002  # of the crop: what is smaller and alone is an error of the network
GROWN_PX, SOFT_PX = 2, 1.2  # at 96 px: what is kept reaches this far over the edge that was found
COVERED_SHARE = {"keep": 0.6, "skip": 0.1}  # of the lips: from here on the frame is left as it is
OCCLUDED_SHARE = 0.01  # of the generated part of the face: less is not worth a word
MOST_TURNED = 1.04  # in eye distances from the middle of the eyes: the nose of a head turned by 60 degrees


def _nothing() -> NDArray[np.float32]:
    return np.zeros((INPUT_PX, INPUT_PX), np.float32)


class Finder(Protocol):
    """Says for each pixel of a crop (h w c) how sure it is, 0..1, that something is in front of the face."""

    def find(self, crop_u8: FrameImage) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """A cut frame and what was found in it; without a crop there is nothing to find it in.

    found          (h w) at 96 px, 0 or 1
    region         (h w) the part of the face that is generated, 0..1
    covered_share  of the lips, 0..1
    turned         how far the nose is from the middle of the eyes, in eye distances
    """

    cut: CutFrame
    found: NDArray[np.float32] = field(default_factory=_nothing)
    region: NDArray[np.float32] = field(default_factory=_nothing)
    covered_share: float = 0.0
    turned: float = 0.0

    @property
    def sees(self) -> bool:
        return self.cut.crop_u8 is not None


def choose_marking(
    finder: Finder | None, rule: Rule | Literal["off"]
) -> Callable[[Iterable[CutFrame]], Iterator[CutFrame]] | None:
    """What marks occlusions as `rule` says; None where nothing does."""
    if finder is None or rule == "off":
        return None
    return partial(mark_occlusions, finder=finder, rule=rule)


def mark_occlusions(cuts: Iterable[CutFrame], finder: Finder, rule: Rule) -> Iterator[CutFrame]:
    """Tell each cut frame what is in front of its face; a frame that is left as it is loses its crop.

    Args:
        rule: "keep" leaves frames as they are whose mouth is mostly covered; "skip" those of which anything
            covers the lips.
    """
    for seen, near in _neighbourhoods(_look(cuts, finder), REACH_FRAMES):
        yield _judged(seen, near, rule)


def _look(cuts: Iterable[CutFrame], finder: Finder) -> Iterator[_Seen]:
    for cut in cuts:
        face, affine = cut.tracked.face, cut.tracked.affine
        if cut.crop_u8 is None or face is None or affine is None:
            yield _Seen(cut)
            continue
        region = face_region(face.points, affine, side_px=INPUT_PX) * soft_mouth(INPUT_PX)
        lips = mouth_region(face.points, affine, side_px=INPUT_PX)
        found = sure_parts(finder.find(lit(cut.crop_u8)))
        covered = float((found * lips).sum()) / max(1.0, float(lips.sum()))
        yield _Seen(cut, found, region, covered, float(nose_beside_eyes(face.points[None])[0]))


def _judged(seen: _Seen, near: list[tuple[int, _Seen]], rule: Rule) -> CutFrame:
    cut = seen.cut
    if not seen.sees:
        return cut
    if np.median([one.turned for _, one in near]) > MOST_TURNED:
        return _left(cut, "face turned away")
    weights = [NEAR_WEIGHTS[distance] for distance, _ in near]
    if np.average([one.covered_share for _, one in near], weights=weights) > COVERED_SHARE[rule]:
        return _left(cut, "mouth covered")
    steady = np.average([one.found for _, one in near], axis=0, weights=weights) > 0.5
    # A hand moves faster than the average: what this frame itself shows counts whole.
    found = np.maximum(seen.found, steady.astype(np.float32))
    if float((found * seen.region).sum()) < OCCLUDED_SHARE * float(seen.region.sum()):
        return cut
    return replace(cut, visible=visible_part(found))


def lit(crop_u8: FrameImage) -> FrameImage:
    """The crop in ordinary light, in which the network was trained."""
    return brightened(crop_u8, light_gain(crop_u8[::2, ::2]))


def visible_part(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of the new mouth is shown (h w), 0..1, softly up to what is in front (h w), 0 or 1."""
    grown = cv2.dilate(found, _disc(GROWN_PX))
    return np.asarray(np.clip(1 - cv2.GaussianBlur(grown, (0, 0), SOFT_PX), 0, 1), np.float32)


def sure_parts(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where something is in front (h w), 0 or 1: what is likely and touches what is sure, if it is not small.

    Source of the two thresholds: Canny 1986. What a network is less sure of inside a hand belongs to it.
    """
    _, labels, facts, _ = cv2.connectedComponentsWithStats((found > LIKELY).astype(np.uint8), connectivity=8)
    is_kept = facts[:, cv2.CC_STAT_AREA] >= LEAST_SHARE * found.size
    is_kept &= np.bincount(labels.ravel(), found.ravel() > SURE, minlength=len(facts)) > 0
    is_kept[0] = False
    return np.asarray(is_kept[labels], np.float32)


def _left(cut: CutFrame, why: Why) -> CutFrame:
    return replace(cut, crop_u8=None, why=why)


def _neighbourhoods(seen: Iterable[_Seen], reach: int) -> Iterator[tuple[_Seen, list[tuple[int, _Seen]]]]:
    """Each item with those up to `reach` away that have a crop, and how far away they are."""
    window: deque[_Seen | None] = deque([None] * reach, maxlen=2 * reach + 1)
    for item in chain(seen, [None] * reach):
        window.append(item)
        middle = window[reach] if len(window) > 2 * reach else None
        if middle is not None:
            near = enumerate(window, -reach)
            yield middle, [(abs(away), one) for away, one in near if one is not None and one.sees]


@lru_cache(maxsize=1)
def _disc(radius_px: int) -> NDArray[np.uint8]:
    side = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
