"""Metrics of how well lips and speech agree, by the networks that judge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from latentsync.errors import MediaError
from latentsync.metrics.metric import Missing, Need, ScoredClip, Value
from latentsync.metrics.sync import SyncJudge, score_sync


@dataclass(frozen=True, slots=True)
class SyncConfidence:
    """Confidence, distance and offset of one judge. The columns say which judge it is.

    Source: Chung and Zisserman (2016), "Out of time"; LSE-D and LSE-C of Prajwal et al. (2020).
    """

    judge: Callable[[], SyncJudge]
    name: str
    values: tuple[Value, ...]
    version: str = "1"
    needs: tuple[Need, ...] = ()

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        try:
            found = score_sync(self.judge(), clip.made_u8, clip.speech)
        except MediaError as error:
            return Missing("too_short", str(error))
        numbers = (found.confidence, found.distance, float(found.offset_frames))
        return {value.name: number for value, number in zip(self.values, numbers, strict=True)}
