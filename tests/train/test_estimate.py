"""What a training is estimated to need: from the real objective, so that everything in it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentsync.events import ignore
from latentsync.recipe.train_unet import LossWeights, UNetTrainingRecipe
from latentsync.train.setup import TrainingJob
from latentsync.train.unet.run import run
from tests.train.made_lips import STAGE1, STAGE2, lip_recipe, write_networks


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def plan_of(recipe: UNetTrainingRecipe, **changes: Any) -> dict[str, Any]:
    job = TrainingJob(data=Path("nowhere"), output=Path("nowhere"), device="cpu", dry_run=True)
    return run(job, recipe.replaced(run=recipe.run.replaced(**changes)), ignore).plan


def test_it_is_the_same_every_time(networks: Path) -> None:
    one, two = (plan_of(lip_recipe(networks)) for _ in range(2))
    for name in ("memory_bytes", "operations_per_sample", "parameters"):
        assert one[name] == two[name] > 0


@pytest.mark.parametrize("loss", [STAGE2.replaced(perceptual=0, trepa=0), STAGE2], ids=["sync", "all"])
def test_every_loss_counts(networks: Path, loss: LossWeights) -> None:
    bare, more = plan_of(lip_recipe(networks, loss=STAGE1)), plan_of(lip_recipe(networks, loss=loss))
    for name in ("memory_bytes", "operations_per_sample", "frozen_parameters"):
        assert more[name] > bare[name]


def test_gradient_checkpointing_trades_operations_for_memory(networks: Path) -> None:
    recipe = lip_recipe(networks, loss=STAGE2.replaced(perceptual=0, trepa=0))
    kept, again = (plan_of(recipe, gradient_checkpointing=value) for value in (False, True))
    assert again["activation_bytes"] < kept["activation_bytes"]
    assert again["operations_per_sample"] > kept["operations_per_sample"]


def test_a_micro_batch_of_twice_as_many_takes_more_memory_but_not_more_operations(networks: Path) -> None:
    one, two = (plan_of(lip_recipe(networks), micro_batch_samples=count) for count in (1, 2))
    assert one["activation_bytes"] < two["activation_bytes"] < 2.2 * one["activation_bytes"]
    assert two["operations_per_sample"] == one["operations_per_sample"]
