"""What the trainers of the bundled model share: samples, a loss, and a run of the loop.

They train on the CPU, in one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset

from latentsync.errors import LatentSyncError
from latentsync.events import Plan, Report
from latentsync.recipe.schema import Table
from latentsync.recipe.training import TrainingRecipe
from latentsync.runtime import choose_device
from latentsync.train.checkpoint import EMA_WEIGHTS, find_last
from latentsync.train.clips import random_of_sample
from latentsync.train.loop import TrainingRun, train
from latentsync.train.processes import make_accelerator
from latentsync.train.setup import owned_output
from latentsync.weights.checkpoints import assign_strictly, save_checkpoint
from latentsync.weights.read import read_tensors

Batch = dict[str, Tensor]
NORM_BATCHES = 50  # from which the statistics of batch normalisation are taken for the EMA weights


class Samples(Dataset[Any]):
    """Sample k is what `draw` makes of a random stream that depends on the seed and k alone.

    The number k is in it, under "number", so that an objective can tell how far the run is.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Batch], recipe: TrainingRecipe) -> None:
        self.draw, self.seed, self.samples = draw, recipe.seed, recipe.run.samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Batch:
        random = random_of_sample(number, "sample", seed=self.seed)
        return {**self.draw(random), "number": torch.tensor(number)}


def fingerprint(names: Iterable[str]) -> str:
    """A short name for the clips called `names`: another one means other data."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def train_to_the_end(run: TrainingRun, report: Report) -> Path:
    """Train until all samples are seen; the same command again resumes from the last checkpoint.

    Returns:
        The weights file with the EMA weights of the last checkpoint.

    Raises:
        LatentSyncError: the run was stopped before its end; all is saved.
        UsageError: another training is writing to the output.
        RecipeError: the checkpoint is of another recipe, or a loss became NaN or infinite.
    """
    trained = sum(each.numel() for each in run.model.parameters() if each.requires_grad)
    lines = (
        f"{trained / 1e6:.2f} million parameters, {run.recipe.run.samples} samples",
        f"output: {run.output}",
    )
    with owned_output(run.output, run.recipe):
        report(Plan(lines))
        ending = train(run, make_accelerator(run.recipe.run, choose_device("cpu")), report)
    last = find_last(run.output / "checkpoints")
    if ending.reason != "finished" or last is None:
        raise LatentSyncError(
            f"'{run.output}': stopped after {ending.position.samples} of {run.recipe.run.samples} samples",
            hint="run the same command again to resume",
        )
    return last / EMA_WEIGHTS


def export_with_norms(
    weights: Path, target: Path, net: nn.Module, pictures: Iterable[Tensor], *, kind: str, config: Table
) -> Path:
    """Write EMA weights at half precision, with statistics of batch normalisation that belong to them.

    The statistics of the run are those of the weights themselves, not of their moving average.

    Args:
        net: gets the weights.
        pictures: batches (n c h w) in -1..1; the first `NORM_BATCHES` are taken.
    """
    assign_strictly(net, read_tensors(weights), weights, device="cpu", dtype=torch.float32)
    update_bn(islice(pictures, NORM_BATCHES), net)
    state = {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    save_checkpoint(target, state, kind=kind, config=config)
    return target


def halves(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file at half precision, as bundled files are."""
    return {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in read_tensors(path).items()
    }


def coarse_loss(made: Tensor, real: Tensor, *, square_px: int) -> Tensor:
    """Mean absolute error of pictures (b c h w) that were averaged over squares.

    Source: ours; where the fine detail cannot be known, a pixel's error only asks for blur.
    """
    return functional.l1_loss(functional.avg_pool2d(made, square_px), functional.avg_pool2d(real, square_px))
