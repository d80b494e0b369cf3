"""How well a SyncNet tells matching from mismatched speech in clips of people it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.manifest import ManifestClip
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.clips import choose_evenly, random_of_sample
from latentsync.train.loop import ValidationShard
from latentsync.train.losses import sync_loss
from latentsync.train.syncnet.objective import SyncNetObjective, far_apart

MAX_SHIFT = 15  # as far as the official evaluation slides the speech
FAR_FRAMES = 3  # pairs nearer than this may both look right
LEAST_PAIRS = 6  # at a shift, for its mean to be reliable
WITHIN_FRAMES = 1


class SyncNetValidation:
    """Measures every clip of a process's share; the loop calls it."""

    def __init__(
        self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], objective: SyncNetObjective
    ) -> None:
        self.seed, self.objective = recipe.seed, objective
        self.clips = choose_evenly(clips, recipe.validation.clips)

    def __call__(self, model: nn.Module, shard: ValidationShard) -> list[dict[str, float]]:
        measured = []
        for index, clip, counts in shard.share_of(self.clips):
            cosines = self.objective.compare(model, clip)
            if counts:
                measured.append(measure(cosines, number=index, seed=self.seed))
        return measured


def measure(cosines: Tensor, *, number: int, seed: int) -> dict[str, float]:
    """Measure a network by its cosines (n n) of frames by speech, one frame apart.

    Returns:
        loss, accuracy     of right pairs and as many wrong ones from anywhere else in the clip; a cosine over
                           0.5 says that a pair is right. Source: the official accuracy
        balanced_accuracy  how often the right speech is nearer than a wrong one at least 3 frames away: by
                           chance 0.5
        offset_accuracy    1 if the shift of the nearest speech, of -15..15, is within one frame of 0, else 0
        cosine_by_shift/…  the mean cosine at each shift
    """
    count = len(cosines)
    random = random_of_sample(number, "validation", seed=seed)
    # Moved on by 1 to count - 1, so that it is never the right one.
    others = (np.arange(count) + random.integers(1, max(2, count), count)) % count
    right, wrong = cosines.diagonal(), cosines[torch.arange(count), torch.from_numpy(others)]
    loss = sync_loss(right, torch.ones(count)).mean() + sync_loss(wrong, torch.zeros(count)).mean()
    accuracy = (right > 0.5).float().mean() + (wrong <= 0.5).float().mean()
    measured = {"loss": loss.item() / 2, "accuracy": accuracy.item() / 2}
    is_far = far_apart(count, FAR_FRAMES)
    if is_far.any():
        # A tie counts half: a network with one answer for everything gets 0.5.
        difference = (right[:, None] - cosines)[is_far]
        measured["balanced_accuracy"] = ((difference > 0).float() + 0.5 * (difference == 0)).mean().item()
    by_shift = {
        shift: cosines.diagonal(shift).mean().item()
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
        if count - abs(shift) >= LEAST_PAIRS
    }
    if by_shift:
        best = max(by_shift, key=lambda shift: (by_shift[shift], -abs(shift)))
        # A network with one answer for everything has found no offset, not the right one.
        is_varied = max(by_shift.values()) > min(by_shift.values())
        measured["offset_accuracy"] = float(is_varied and abs(best) <= WITHIN_FRAMES)
    return measured | {f"cosine_by_shift/{shift:+03d}": value for shift, value in by_shift.items()}
