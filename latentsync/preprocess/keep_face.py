"""Fifth step: keeps clips with one face in every frame, large enough and not turned away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.faces.landmarks import nose_beside_eyes
from latentsync.preprocess.step import Clip, Drop, FaceFacts, Picture
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.preprocess import Keeping

_LONGEST_MOVE = 0.5  # in face sides: a face that moves further between two frames is another one
_YAW_QUANTILE = 0.9  # of the frames: a short turn of the head does not drop a clip


@dataclass
class KeepFace:
    """Drops a clip whose face is missing or unsuitable; stacks the crops of the others."""

    keeping: Keeping
    name: str = "keep_face"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        pictures = list(clip.pictures or [])
        bare = replace(clip, pictures=None)
        points = [picture.points for picture in pictures if picture.points is not None]
        missing = len(pictures) - len(points)
        if missing:
            reason = "face_lost" if points else "no_face"
            yield Drop(reason, f"{missing} of {len(pictures)} frames without a face", bare)
            return
        facts = self._facts(pictures, np.stack(points), clip.source_px)
        known = replace(bare, face=facts)
        drop = self._moved_away(np.stack(points), known) or self._drop(facts, known)
        if drop is not None:
            yield drop
            return
        crops_u8 = np.stack([picture.crop_u8 for picture in pictures if picture.crop_u8 is not None])
        boxes = [picture.box_u8 for picture in pictures if picture.box_u8 is not None]
        boxes_u8 = np.stack(boxes) if boxes else None
        del pictures, boxes  # so that the crops are in memory once
        yield replace(known, crops_u8=crops_u8, boxes_u8=boxes_u8)  # f h w c

    def _facts(self, pictures: list[Picture], points: NDArray[np.float32], source_px: float) -> FaceFacts:
        sides_px = _sides_px(points)
        are_large = [
            picture.other_px >= self.keeping.other_size * side_px
            for picture, side_px in zip(pictures, sides_px, strict=True)
            if picture.other_px is not None
        ]
        return FaceFacts(
            px=float(sides_px.min()) * source_px,
            yaw=float(np.quantile(nose_beside_eyes(points), _YAW_QUANTILE)),
            others=float(np.mean(are_large)) if are_large else 0.0,
        )

    def _moved_away(self, points: NDArray[np.float32], known: Clip) -> Drop | None:
        # In face sides, so that one limit holds for small and large faces.
        moves = np.linalg.norm(np.diff(points.mean(1), axis=0), axis=1) / _sides_px(points)[:-1]
        if not len(moves) or moves.max() <= _LONGEST_MOVE:
            return None
        second = (known.start_frame + int(moves.argmax()) + 1) / VIDEO_FPS
        return Drop("face_lost", f"it moves too far from one frame to the next, at {second:.2f} s", known)

    def _drop(self, facts: FaceFacts, known: Clip) -> Drop | None:
        limits = self.keeping
        if facts.px < limits.min_px:
            return Drop("face_too_small", f"{facts.px:.0f} px < {limits.min_px:g} px", known)
        if facts.yaw > limits.max_yaw:
            detail = f"nose {facts.yaw:.2f} > {limits.max_yaw:g} eye distances from the middle"
            return Drop("side_on", detail, known)
        if facts.others > limits.other_share:
            detail = f"another face in {facts.others:.0%} > {limits.other_share:.0%} of the looks"
            return Drop("several_faces", detail, known)
        return None


def _sides_px(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Side of the smallest square around the points of each frame (f,)."""
    return np.asarray((points.max(1) - points.min(1)).max(1))
