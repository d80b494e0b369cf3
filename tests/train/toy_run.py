"""A tiny run for the tests of the loop: a network with dropout that learns to add up eight numbers.

As a program it is one process of a run that `torchrun` started: `toy_run.py OUTPUT [key=value…]`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.events import Report, ignore
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.schema import Table
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.training import TrainingRecipe
from latentsync.runtime import Seeds
from latentsync.train.loop import Ending, Score, TrainingRun, ValidationShard, train
from latentsync.train.processes import make_accelerator, sharding_plugin

PAPER_RECIPE = load_recipe("syncnet", SyncNetRecipe)

Losses = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


class ToyRecipe(TrainingRecipe):
    def with_run(self, **changes: Any) -> ToyRecipe:
        return self.replaced(run=self.run.replaced(**changes))


TOY = ToyRecipe(
    seed=1247,
    held_out=(),
    optimizer=PAPER_RECIPE.optimizer.replaced(learning_rate=0.01, schedule="cosine", warmup_samples=16),
    run=PAPER_RECIPE.run.replaced(
        samples=80,
        batch_samples=8,
        micro_batch_samples=4,
        precision="fp32",
        average_decay=0.9,
        log_every_samples=24,  # does not divide what is saved at: sums must survive a stop
        save_every_samples=40,
        keep_last=2,
    ),
)


class ToyConfig(Table):
    width: int = 16


class ToyModel(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        layers = nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1)
        self.network = nn.Sequential(*layers)
        self.adapter = nn.Linear(8, 8)  # as a U-Net's audio adapter, saved beside the network
        self.scale = nn.Parameter(torch.ones(1))  # trained, but no part of the network that is saved

    def forward(self, numbers: Tensor) -> Tensor:
        total: Tensor = self.network(numbers + self.adapter(numbers))[:, 0] * self.scale
        return total


class ToySamples(Dataset[Any]):
    def __getitem__(self, number: int) -> dict[str, Tensor]:
        numbers = torch.randn(8, generator=Seeds(3).generator(f"toy/{number}"))
        return {"numbers": numbers, "total": numbers.sum(), "number": torch.tensor(number)}


def squared(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    error = model(batch["numbers"]) - batch["total"]
    return {"squared": error.square().mean(), "absolute": error.abs().mean()}


class ToyObjective:
    def __init__(self, losses: Losses) -> None:
        self.weights = {"squared": 1.0}
        self.losses = losses


def judge(model: nn.Module, shard: ValidationShard) -> list[dict[str, float]]:
    samples = [ToySamples()[number] for number in range(1000 + shard.rank, 1008, shard.processes)]
    return [{"error": squared(model, {k: v[None] for k, v in s.items()})["absolute"].item()} for s in samples]


def run_toy(
    output: Path,
    recipe: ToyRecipe | None = None,
    *,
    losses: Losses = squared,
    dropout: float = 0.2,
    workers: int = 0,
    report: Report = ignore,
    stop_after_s: float | None = None,
    is_sharded: bool = False,
) -> Ending:
    recipe = recipe or TOY
    torch.manual_seed(recipe.seed)
    run = TrainingRun(
        recipe=recipe,
        model=ToyModel(dropout),
        network="network",
        kind="toy",
        config=ToyConfig(),
        objective=ToyObjective(losses),
        samples=ToySamples(),
        data="toy",
        output=output,
        validate=judge,
        validate_every_samples=32,
        score=Score("error", "lower"),
        workers=workers,
        stop_after_s=stop_after_s,
    )
    accelerator = make_accelerator(recipe.run, torch.device("cpu"))
    if is_sharded:  # accelerate shards on GPUs only; torch does on CPUs too
        state = AcceleratorState._shared_state
        state |= {
            "distributed_type": DistributedType.FSDP,
            "fsdp_plugin": sharding_plugin(least_parameters=10),
        }
    return train(run, accelerator, report)


def _main() -> None:
    torch.set_num_threads(1)
    output, *settings = sys.argv[1:]
    changes = {key: json.loads(value) for key, value in (text.split("=") for text in settings)}
    ends_at, number = changes.pop("ends_at", None), changes.pop("signal", 0)
    is_sharded = changes.pop("is_sharded", False)

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if ends_at is not None and os.environ["RANK"] == "1" and batch["number"].max() >= ends_at:
            os.kill(os.getpid(), number)
        return squared(model, batch)

    recipe = TOY.with_run(**changes)
    try:
        run_toy(Path(output), recipe, losses=losses, dropout=0.0, is_sharded=is_sharded)
    except Exception as error:
        sys.stderr.write(f"ERROR {type(error).__name__}: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    _main()
