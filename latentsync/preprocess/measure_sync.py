"""Sixth step: measures how well speech and lips match, and shifts the speech by its offset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from latentsync.errors import MediaError
from latentsync.metrics.sync import SyncJudge, choose_judge, score_sync
from latentsync.preprocess.step import Clip, Drop, SyncFacts, speech_during
from latentsync.recipe.preprocess import Synchrony


@dataclass
class MeasureSync:
    """Drops clips whose speech does not match the lips, and shifts the speech of the others.

    Source: the paper, section 3.3: measured after the affine transform, confidence from 3 on; offsets up to
    6 frames: the official pipeline.
    """

    synchrony: Synchrony
    device: str = "cpu"
    name: str = "measure_sync"
    judge: SyncJudge | None = field(default=None, repr=False)

    def start(self) -> None:
        self.judge = self.judge or choose_judge(self.synchrony.judge, device=self.device)

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        # "before" is an ablation of the paper: the offset measured on faces that are not aligned.
        judged_u8 = clip.boxes_u8 if self.synchrony.adjust == "before" else clip.crops_u8
        if judged_u8 is None or self.judge is None:
            raise ValueError("there are no crops to judge, or the step was not started")
        try:
            score = score_sync(
                self.judge, judged_u8, speech_during(clip), max_shift_frames=self.synchrony.max_shift_frames
            )
        except MediaError as error:
            yield Drop("too_short", str(error), replace(clip, crops_u8=None, boxes_u8=None))
            return
        facts = SyncFacts(
            offset_frames=score.offset_frames,
            confidence=score.confidence,
            judge=score.judge,
            is_applied=self.synchrony.adjust != "none",
        )
        known = replace(clip, sync=facts, boxes_u8=None)
        yield self._drop(facts, replace(known, crops_u8=None)) or known

    def _drop(self, facts: SyncFacts, known: Clip) -> Drop | None:
        needed = self.synchrony.min_confidence
        # Distances of the judges are on different scales, and confidences with them.
        if facts.judge != "syncnet-v2":
            needed = self.synchrony.min_confidence_compact
        # `not >=` also drops a confidence of NaN.
        if not facts.confidence >= needed:
            return Drop("low_confidence", f"{facts.confidence:.2f} < {needed:g} by {facts.judge}", known)
        if abs(facts.offset_frames) > self.synchrony.max_offset_frames:
            detail = f"{facts.offset_frames:+d} frames, more than {self.synchrony.max_offset_frames}"
            return Drop("offset_too_large", detail, known)
        return None
