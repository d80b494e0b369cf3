"""What the flags of `latentsync train-syncnet` become."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.syncnet import run as core
from tests.cli.conftest import Calls
from tests.conftest import RunCli

WEIGHTS = Path("runs/syncnet/syncnet.safetensors")


@pytest.fixture
def calls(stand_in: Callable[..., Calls]) -> Calls:
    return stand_in(core, result_of)


def result_of(job: TrainingJob, *, reason: str = "finished", is_main: bool = True) -> TrainingResult:
    return TrainingResult(
        output=job.output,
        weights=None if job.dry_run else WEIGHTS,
        checkpoint=None,
        reason=reason,
        samples=5,
        steps=1,
        clips=3,
        dropped=0,
        took_s=1.0,
        is_main=is_main,
    )


def test_the_bare_command_trains_the_paper_s_network_on_data(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("train-syncnet")
    assert (ended.code, ended.out) == (0, f"{WEIGHTS}\n")
    assert calls.jobs == [TrainingJob(data=Path("data"), output=Path("runs/syncnet"))]
    assert calls.recipes == [load_recipe("syncnet", SyncNetRecipe)]


def test_flags_become_a_job(calls: Calls, run_cli: RunCli) -> None:
    flags = (
        "--data d -o out --recipe compact/syncnet --set optimizer.learning_rate=0.5 --device cpu --workers 3"
        " --decoded-cache no --stop-after-s 60 --dry-run --quiet"
    )
    assert run_cli("train-syncnet", *flags.split()).code == 0
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


def test_a_dry_run_prints_the_recipe(calls: Calls, run_cli: RunCli, tmp_path: Path) -> None:
    printed = tmp_path / "printed.toml"
    printed.write_text(run_cli("train-syncnet", "--dry-run", "--set", "run.batch_samples=512").out)
    assert load_recipe(printed, SyncNetRecipe) == calls.recipes[0]


def test_a_signal_ends_in_its_exit_code(calls: Calls, run_cli: RunCli) -> None:
    calls.answer = partial(result_of, reason="signal")
    assert run_cli("train-syncnet").code == 130


def test_only_the_main_process_prints(calls: Calls, run_cli: RunCli) -> None:
    calls.answer = partial(result_of, is_main=False)
    ended = run_cli("train-syncnet")
    assert (ended.code, ended.out) == (0, "")


def test_a_mistyped_key_is_a_recipe_s_fault(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("train-syncnet", "--set", "network.frame=5")
    assert ended.code == 3 and "did you mean frames?" in ended.err
