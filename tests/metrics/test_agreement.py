from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.metrics.metric import ScoredClip
from latentsync.metrics.sync import SyncConfidence

Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]


class Loudness:
    """Stands in for a judge: compares how red the mouth is with how loud the speech is, over five frames."""

    name = "loudness"

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        mouth = crops_u8[:, 32:56, 16:48].astype(float)
        return self._windows((mouth[..., 0] - mouth[..., 1]).mean((1, 2)))

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        return self._windows(np.abs(samples).reshape(-1, 640).mean(1))

    def distances(self, seen: Tensor, heard: Tensor) -> Tensor:
        return (seen - heard).square().mean(1)

    def _windows(self, by_frame: NDArray[np.float64]) -> Tensor:
        scaled = (by_frame - by_frame.mean()) / (by_frame.std() + 1e-9)
        return torch.from_numpy(scaled).unfold(0, 5, 1)


METRIC = SyncConfidence(Loudness)


def test_real_is_nearer_than_shifted_and_clearer_than_static(
    talking: Talking, shifted: Change, static: Change
) -> None:
    clip = talking()
    real, late, still = (METRIC.score(change(clip)) for change in (lambda same: same, shifted, static))
    assert isinstance(real, dict) and isinstance(late, dict) and isinstance(still, dict)
    assert list(real) == ["sync_conf", "lse_d", "sync_offset"]
    # Confidence does not mind a constant shift: the offset beside it tells.
    assert (real["sync_offset"], late["sync_offset"]) == (0, 4)
    assert min(real["sync_conf"], late["sync_conf"]) > still["sync_conf"] + 0.5
    assert real["lse_d"] < still["lse_d"]


def test_a_clip_that_is_too_short_has_no_score(talking: Talking) -> None:
    clip = talking()
    found = METRIC.score(replace(clip, made_u8=clip.made_u8[:7]))
    assert getattr(found, "reason", "") == "too_short"


def test_scores_do_not_depend_on_the_order_of_clips(talking: Talking) -> None:
    clips = [talking(seed) for seed in range(3)]
    there, back = [METRIC.score(clip) for clip in clips], [METRIC.score(clip) for clip in clips[::-1]]
    assert there == back[::-1]
