"""`latentsync train-unet`: what the flags become, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.unet import run as core
from latentsync_cli.train import name_of_run
from tests.cli.conftest import Calls
from tests.conftest import RunCli


@pytest.fixture
def calls(stand_in: Callable[..., Calls]) -> Calls:
    def result_of(job: TrainingJob) -> TrainingResult:
        weights = None if job.dry_run else job.output / "unet.safetensors"
        reason = "signal" if job.stop_after_s else "finished"
        known: dict[str, Any] = dict(samples=8, steps=2, clips=1, dropped=0, took_s=1.0)
        return TrainingResult(output=job.output, weights=weights, checkpoint=None, reason=reason, **known)

    return stand_in(core, result_of)


def test_bare_it_trains_stage_two_on_the_data_here(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("train-unet", "--recipe", "stage2.toml")
    assert (ended.code, ended.out) == (0, "runs/stage2/unet.safetensors\n")
    assert calls.jobs == [TrainingJob(data=Path("data"), output=Path("runs/stage2"))]
    assert calls.recipes == [load_recipe("stage2", UNetTrainingRecipe)]


def test_flags_become_the_job_and_the_recipe(calls: Calls, run_cli: RunCli, tmp_path: Path) -> None:
    start = tmp_path / 'a "b".safetensors'
    flags = ("--data", "d", "-o", "o", "--from", start, "--set", "run.samples=64", "--workers", "0")
    assert run_cli("train-unet", *flags).code == 0
    assert calls.jobs == [TrainingJob(data=Path("d"), output=Path("o"), workers=0)]
    (recipe,) = calls.recipes
    assert (recipe.weights.start, recipe.run.samples) == (str(start), 64)


def test_a_dry_run_prints_the_resolved_recipe(calls: Calls, run_cli: RunCli) -> None:
    shown = run_cli("train-unet", "--recipe", "stage1", "--dry-run").out
    assert 'start = "sd-1.5-unet"' in shown and "[loss]" in shown


def test_a_signal_ends_with_130(calls: Calls, run_cli: RunCli) -> None:
    assert run_cli("train-unet", "--stop-after-s", "1").code == 130


def test_without_data_it_says_what_to_run_first(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    ended = run_cli("train-unet", "--recipe", "stage2.toml", "--device", "cpu")
    assert ended.code == 4
    assert "latentsync preprocess" in ended.err
    assert "latentsync models pull latentsync-1.5" in ended.err


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("stage2.toml", "stage2"),
        ("compact/stage1", "compact-stage1"),
        ("ablations/unet-plain.toml", "ablations-unet-plain"),
        ("recipes/stage1.toml", "stage1"),
        ("../mine.toml", "mine"),
    ],
)
def test_runs_are_named_after_recipes(recipe: str, name: str) -> None:
    assert name_of_run(recipe) == name
