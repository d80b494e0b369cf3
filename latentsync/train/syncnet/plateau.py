"""Notices that a SyncNet does not learn: its loss stays at that of a coin, ln 2 = 0.693."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.log import Row

COIN = math.log(2)
NEAR = 0.006  # a loss this close to that of a coin has learnt nothing that can be told from noise
PATIENCE_ROWS = 8
PATIENCE_STEPS = 200  # every run begins at a coin's loss


@dataclass(frozen=True, slots=True)
class Plateau:
    """The last rows of the log show the loss of a coin. `chance` is that loss."""

    loss: float
    chance: float
    samples: int
    steps: int


def find_plateau(rows: Sequence[Row]) -> Plateau | None:
    """The plateau that the log ends in, if it does.

    The loss of a row is `bce`, which is ln 2 by chance, or `contrastive`, whose chance stands beside it.
    """
    last = [row for row in rows if "losses" in row][-PATIENCE_ROWS:]
    if len(last) < PATIENCE_ROWS or last[-1]["steps"] < PATIENCE_STEPS:
        return None
    losses, chances = zip(*(_loss_and_chance(row) for row in last), strict=True)
    if any(abs(loss - chance) > NEAR for loss, chance in zip(losses, chances, strict=True)):
        return None
    mean = math.fsum(losses) / len(losses)
    return Plateau(mean, chances[-1], last[-1]["samples"], last[-1]["steps"])


def explain_plateau(plateau: Plateau, recipe: SyncNetRecipe, *, clips: int, checked: int) -> str:
    """What the run says about a plateau: the likely causes, in the paper's order, with this run's values.

    Args:
        clips: that are trained on.
        checked: how many of them had the offset of their speech measured by `preprocess`.

    Source: the paper, section 4.4: batch, frames, offset, data, architecture.
    """
    network, dimension = recipe.network, recipe.network.visual.channels[-1]
    attends = any(network.visual.attention) or any(network.audio.attention)
    kind = "Wav2Lip's blocks" if network.kind == "wav2lip" else "Stable Diffusion's blocks"
    distance = recipe.negatives.min_distance_frames
    causes = (
        f"batch: {recipe.run.batch_samples} samples; the paper was stuck with 128, unsure with 256, best with"
        " 1024 (run.batch_samples)",
        f"frames: {network.frames} a window; 16 was best, 25 stuck early, 5 worse (network.frames)",
        f"offset: {checked} of {clips} clips had their offset measured; unadjusted, or adjusted before the"
        " faces were aligned, the paper's clips trained badly (preprocess again)",
        f"data: {clips} clips; wrong pairs are at least {distance} frames apart"
        f' (negatives.policy = "{recipe.negatives.policy}"); more people and farther pairs are easier',
        f"architecture: {kind} {'with' if attends else 'without'} attention, {dimension} numbers out; best"
        " were Stable Diffusion's without attention and 2048; 512 was too few, 4096 and more did not learn",
    )
    listed = "".join(f"\n  {number}. {cause}" for number, cause in enumerate(causes, 1))
    return (
        f"the loss sits at {plateau.loss:.3f} after {plateau.samples} samples, which is chance"
        f" ({plateau.chance:.3f}): nothing has been learnt yet. Likely causes, the likeliest first:{listed}"
    )


def _loss_and_chance(row: Row) -> tuple[float, float]:
    losses = row["losses"]
    if "chance" in losses:
        return losses["contrastive"], losses["chance"]
    return losses["bce"], COIN
