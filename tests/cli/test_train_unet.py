"""`latentsync train-unet`: what the flags become, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from latentsync.errors import MediaError
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.unet import run as train_unet
from latentsync_cli.app import app
from latentsync_cli.train_unet import name_of_run

Asked = list[tuple[TrainingJob, UNetTrainingRecipe]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the command asks for; nothing is trained."""
    calls: Asked = []

    def run(job: TrainingJob, recipe: UNetTrainingRecipe, report: object) -> object:
        calls.append((job, recipe))
        known: dict[str, Any] = dict(samples=8, steps=2, clips=1, dropped=0, took_s=1.0)
        weights = None if job.dry_run else job.output / "unet.safetensors"
        reason = "signal" if job.stop_after_s else "finished"
        return TrainingResult(output=job.output, weights=weights, checkpoint=None, reason=reason, **known)

    monkeypatch.setattr(train_unet, "run", run)
    return calls


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train-unet", *arguments])


def test_bare_it_trains_stage_two_on_the_data_here(asked: Asked) -> None:
    result = call("--recipe", "stage2.toml")
    assert result.exit_code == 0
    assert result.stdout == "runs/stage2/unet.safetensors\n"
    job, recipe = asked[0]
    assert (job.data, job.output) == (Path("data"), Path("runs/stage2"))
    assert recipe == load_recipe("stage2", UNetTrainingRecipe)


def test_flags_become_the_job_and_the_recipe(asked: Asked, tmp_path: Path) -> None:
    start = tmp_path / 'a "b".safetensors'
    result = call("--data", "d", "-o", "o", "--from", str(start), "--set", "run.samples=64", "--workers", "0")
    assert result.exit_code == 0
    job, recipe = asked[0]
    assert (job.data, job.output, job.workers) == (Path("d"), Path("o"), 0)
    assert (recipe.weights.start, recipe.run.samples) == (str(start), 64)


def test_a_dry_run_prints_the_resolved_recipe(asked: Asked) -> None:
    result = call("--recipe", "stage1", "--dry-run")
    assert result.exit_code == 0
    assert 'start = "sd-1.5-unet"' in result.stdout and "[loss]" in result.stdout


def test_a_signal_ends_with_130(asked: Asked) -> None:
    assert call("--stop-after-s", "1").exit_code == 130


def test_without_data_it_says_what_to_run_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    result = call("--recipe", "stage2.toml", "--device", "cpu")
    assert isinstance(result.exception, MediaError)
    assert "latentsync preprocess" in str(result.exception.hint)
    assert "latentsync models pull latentsync-1.5" in str(result.exception.hint)


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
