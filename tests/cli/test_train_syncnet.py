"""What the flags of `latentsync train-syncnet` become."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from latentsync.events import Report
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.syncnet import run as core
from latentsync_cli import app as cli

WEIGHTS = Path("runs/syncnet/syncnet.safetensors")


class Calls:
    """Stands for the core: remembers what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []
        self.recipes: list[SyncNetRecipe] = []
        self.reason = "finished"
        self.is_main = True

    def run(self, job: TrainingJob, recipe: SyncNetRecipe, report: Report) -> TrainingResult:
        self.jobs.append(job)
        self.recipes.append(recipe)
        return TrainingResult(
            output=job.output,
            weights=None if job.dry_run else WEIGHTS,
            checkpoint=None,
            reason=self.reason,
            samples=5,
            steps=1,
            clips=3,
            dropped=0,
            took_s=1.0,
            is_main=self.is_main,
        )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls()
    monkeypatch.setattr(core, "run", stand_in.run)
    return stand_in


def give(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["latentsync", "train-syncnet", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_bare_command_trains_the_paper_s_network_on_data(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch) == 0
    assert calls.jobs == [TrainingJob(data=Path("data"), output=Path("runs/syncnet"))]
    assert calls.recipes == [load_recipe("syncnet", SyncNetRecipe)]
    assert capsys.readouterr().out == f"{WEIGHTS}\n"


def test_flags_become_a_job(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--data d -o out --recipe compact/syncnet --set optimizer.learning_rate=0.5 --device cpu --workers 3"
        " --decoded-cache no --stop-after-s 60 --dry-run --quiet"
    )
    assert give(monkeypatch, *flags.split()) == 0
    assert calls.jobs == [
        TrainingJob(
            data=Path("d"),
            output=Path("out"),
            device="cpu",
            workers=3,
            decoded_cache="no",
            stop_after_s=60.0,
            dry_run=True,
        )
    ]
    assert calls.recipes[0].optimizer.learning_rate == 0.5
    assert calls.recipes[0].syncnet == "framewise"


def test_a_dry_run_prints_the_recipe(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    give(monkeypatch, "--dry-run", "--set", "run.batch_samples=512")
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    assert load_recipe(printed, SyncNetRecipe) == calls.recipes[0]


def test_a_signal_ends_in_its_exit_code(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    calls.reason = "signal"
    assert give(monkeypatch) == 130


def test_only_the_main_process_prints(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.is_main = False
    assert give(monkeypatch) == 0
    assert capsys.readouterr().out == ""


def test_a_mistyped_key_is_a_recipe_s_fault(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "--set", "network.frame=5") == 3
    assert "did you mean frames?" in capsys.readouterr().err
