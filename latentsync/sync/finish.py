"""From a frame and what was generated for it to the picture that is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.diffusion.view import ViewName, shown_part
from latentsync.faces.paste import (
    FEATHER,
    OUTLINE_PX,
    SMOOTH_PX,
    face_region,
    match_colours,
    paste,
    still_skin,
)
from latentsync.sync.generate import GeneratedFrame, Why
from latentsync.sync.plan import Setup
from latentsync.types import Patched, unpatched


@dataclass(frozen=True, slots=True)
class FinishedFrame:
    """A picture (h w c) to be written, and what is counted about it; nothing else of its frame is held.

    It is not yet RGB as a whole where the source is not.

    time_s       when it is shown, from the start of the output
    why          it is left as it is; "" for a new mouth
    is_occluded  something in front of the new mouth was kept
    who          of a cast has a new mouth in it
    """

    picture: Patched
    time_s: float
    why: Why
    is_interpolated: bool
    is_occluded: bool = False
    who: tuple[str, ...] = ()

    @property
    def has_face(self) -> bool:
        """Whether it has a new mouth."""
        return self.why == ""


def finish(generated_frames: Iterable[GeneratedFrame], setup: Setup) -> Iterator[FinishedFrame]:
    """Paste what was generated into each frame, beside the source if that is wanted."""
    for generated in generated_frames:
        tracked = generated.cut.tracked
        yield FinishedFrame(
            _picture(generated, setup),
            tracked.frame.time_s,
            generated.cut.why,
            tracked.is_interpolated,
            generated.cut.visible is not None,
        )


def _picture(generated: GeneratedFrame, setup: Setup) -> Patched:
    tracked, strength = generated.cut.tracked, generated.cut.strength
    result = unpatched(tracked.frame.picture)
    if generated.crop is not None and tracked.affine is not None:
        result = _pasted(generated, setup)
        if strength < 1:
            source_u8 = result.picture[result.rows, result.columns]
            mixed = cv2.addWeighted(result.patch_u8, strength, source_u8, 1 - strength, 0)
            result = replace(result, patch_u8=np.asarray(mixed, np.uint8))
    if not setup.job.compare:
        return result
    return unpatched(np.concatenate([tracked.frame.rgb_u8, result.rgb_u8], axis=1))


def _pasted(generated: GeneratedFrame, setup: Setup) -> Patched:
    crop, cut, region = generated.crop, generated.cut, setup.recipe.paste.region
    affine, face, picture = cut.tracked.affine, cut.tracked.face, cut.tracked.frame.picture
    assert crop is not None and cut.crop_u8 is not None and affine is not None and face is not None
    if region == "crop":
        return paste(picture, crop, affine, region="crop")
    side = affine.resolution
    outline_px, compared_px = (
        (side, side) if setup.sampling.is_exact else (min(side, OUTLINE_PX), min(side, SMOOTH_PX))
    )
    shown, generated_part = _parts(setup.spec.view, side, compared_px)
    outline = cv2.resize(face_region(face.points, affine, side_px=outline_px), (side, side))
    compared = generated_part * still_skin(face.points, affine, side_px=compared_px)
    if cut.visible is not None:
        outline = outline * cv2.resize(cut.visible, (side, side))
        compared = compared * cv2.resize(cut.visible, (compared_px, compared_px))
    matched = match_colours(crop, cut.crop_u8, compared)
    return paste(picture, matched, affine, within=shown * outline)


@lru_cache(maxsize=4)
def _parts(view: ViewName, side_px: int, compared_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where what was made is shown (h w), and what is made at all, at the size at which it is compared."""
    shown, made = shown_part(view, side_px, feather=FEATHER)
    return shown, np.asarray(
        cv2.resize(made, (compared_px, compared_px), interpolation=cv2.INTER_AREA), np.float32
    )
