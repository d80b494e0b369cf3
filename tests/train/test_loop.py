"""The training loop: it learns, stops, resumes bit for bit, and says what went wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latentsync.errors import MediaError, MemoryShortage, RecipeError
from latentsync.events import Event, Note
from latentsync.train.checkpoint import find_best, find_last
from latentsync.train.log import Row, read_log
from latentsync.train.loop import learning_rate
from latentsync.weights.read import read_tensors
from tests.train.toy_run import TOY, ToySamples, run_toy, squared

TIMES = {"samples_per_s", "memory_bytes", "elapsed_s"}


def what_counts(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def weights_of(output: Path, name: str = "model.safetensors") -> dict[str, Tensor]:
    checkpoint = find_last(output / "checkpoints")
    assert checkpoint is not None
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    rest = {f"rest.{key}": value for key, value in state["rest"][name].items()}
    return read_tensors(checkpoint / name) | rest


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "average.safetensors"):
        first, second = weights_of(one, name), weights_of(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def assert_same_run(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    assert what_counts(read_log(one)) == what_counts(read_log(other))


def test_it_learns(tmp_path: Path) -> None:
    recipe = TOY.with_run(samples=2400, log_every_samples=240)
    run_toy(tmp_path, recipe, dropout=0.0)
    losses = [row["losses"]["squared"] for row in read_log(tmp_path) if "losses" in row]
    assert losses[-1] < 0.1 * losses[0]


def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    run_toy(tmp_path / "whole")
    seen = 0

    def stopping(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal seen
        seen += len(batch["number"])
        if seen == 36:  # in the first half of the fifth step
            readers = [child.pid for child in multiprocessing.active_children() if child.pid]
            for process in (*readers, os.getpid()):  # as torchrun and job schedulers do
                os.kill(process, signal.SIGTERM)
        return squared(model, batch)

    stopped = run_toy(tmp_path / "parts", losses=stopping, workers=1)
    assert stopped.reason == "signal"
    assert 40 <= stopped.position.samples < 80
    finished = run_toy(tmp_path / "parts")
    assert finished.reason == "finished"
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_with_muon_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = TOY.replaced(optimizer=TOY.optimizer.replaced(kind="muon", schedule="constant"))
    run_toy(tmp_path / "whole", recipe)
    run_toy(tmp_path / "parts", recipe.with_run(samples=40))
    run_toy(tmp_path / "parts", recipe)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    run_toy(tmp_path / "whole")

    def dying(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if int(batch["number"].max()) >= 60:
            raise KeyboardInterrupt
        return squared(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "parts", losses=dying)
    (tmp_path / "parts" / "checkpoints" / "step-000007.part").mkdir()  # a save that was cut off
    run_toy(tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_time_being_up_saves_and_stops(tmp_path: Path) -> None:
    ending = run_toy(tmp_path, stop_after_s=0.0)
    assert (ending.reason, ending.position.steps) == ("time", 1)
    assert find_last(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000001"


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    for name, micro in (("one", 8), ("many", 2)):
        run_toy(tmp_path / name, TOY.with_run(micro_batch_samples=micro), dropout=0.0)
    one, many = weights_of(tmp_path / "one"), weights_of(tmp_path / "many")
    assert all(torch.allclose(one[key], many[key], atol=1e-5) for key in one)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("toy_run.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *program, script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("is_sharded", ["false", "true"], ids=["ddp", "fsdp"])
def test_two_processes_take_the_path_of_one(tmp_path: Path, is_sharded: str) -> None:
    changes = "micro_batch_samples=2", f"is_sharded={is_sharded}"
    stopped = [("ends_at=40", "signal=15")] if is_sharded == "true" else []  # one of the two is asked to stop
    for more in (*stopped, ()):
        done = launch(str(tmp_path / "two"), *changes, *more)
        assert done.returncode == 0, done.stderr
    run_toy(tmp_path / "one", dropout=0.0)
    one, two = (what_counts(read_log(tmp_path / name)) for name in ("one", "two"))
    assert [row["samples"] for row in one] == [row["samples"] for row in two]
    for alone, shared in zip(one, two, strict=True):
        table = "losses" if "losses" in alone else "validation"
        assert shared[table] == pytest.approx(alone[table], abs=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    done = launch(str(tmp_path / "two"), "micro_batch_samples=2", "ends_at=40", "signal=15")
    assert done.returncode == 0, done.stderr
    before = len(read_log(tmp_path / "two"))
    run_toy(tmp_path / "two", TOY.with_run(micro_batch_samples=4), dropout=0.0)
    run_toy(tmp_path / "one", dropout=0.0)
    one, two = (what_counts(read_log(tmp_path / name)) for name in ("one", "two"))
    assert 0 < before < len(two) == len(one)
    for alone, shared in zip(one, two, strict=True):
        table = "losses" if "losses" in alone else "validation"
        assert shared[table] == pytest.approx(alone[table], abs=1e-4)


def test_a_killed_process_ends_the_others_and_loses_nothing(tmp_path: Path) -> None:
    done = launch(str(tmp_path), "micro_batch_samples=4", "ends_at=60", "signal=9")
    assert done.returncode != 0
    assert "ERROR LatentSyncError: another process of this run ended; the last good checkpoint" in done.stderr
    checkpoint = find_last(tmp_path / "checkpoints")
    assert checkpoint is not None and checkpoint.name >= "step-000005"


def test_a_loss_that_is_nan_stops_the_run(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = squared(model, batch)
        is_late = int(batch["number"].max()) >= 60
        return losses | {"squared": losses["squared"] * (float("nan") if is_late else 1)}

    with pytest.raises(RecipeError, match=r"step 8: the loss 'squared' is nan; the last good .*step-000005"):
        run_toy(tmp_path, losses=broken)
    assert all(value.isfinite().all() for value in weights_of(tmp_path).values())


def test_a_gradient_that_is_infinite_is_named(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        zero = model.scale - model.scale.detach()  # its square root has an infinite slope at 0
        return {"squared": model(batch["numbers"]).square().mean() + zero.sqrt().sum()}

    with pytest.raises(RecipeError, match=r"step 1: the gradient of 'scale' is"):
        run_toy(tmp_path, losses=broken)


def test_running_out_of_memory_names_the_setting(tmp_path: Path) -> None:
    def greedy(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryShortage) as caught:
        run_toy(tmp_path, losses=greedy)
    assert caught.value.hint and "run.micro_batch_samples=2" in caught.value.hint


def test_another_recipe_is_refused_and_its_keys_are_named(tmp_path: Path) -> None:
    run_toy(tmp_path)
    changed = TOY.optimizer.replaced(learning_rate=0.5, weight_decay=0.0)
    other = TOY.replaced(optimizer=changed).with_run(samples=160)
    with pytest.raises(RecipeError) as caught:
        run_toy(tmp_path, other)
    assert "optimizer.learning_rate is 0.01 there and 0.5 now" in str(caught.value)
    assert "run.samples" not in str(caught.value)


def test_a_finished_run_resumes_when_more_samples_are_wanted(tmp_path: Path) -> None:
    run_toy(tmp_path)
    assert run_toy(tmp_path).position.samples == 80
    assert run_toy(tmp_path, TOY.with_run(samples=160)).position.samples == 160


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    ending = run_toy(tmp_path, TOY.with_run(save_every_samples=8))
    kept = sorted(checkpoint.name for checkpoint in (tmp_path / "checkpoints").glob("step-*"))
    best = find_best(tmp_path / "checkpoints")
    assert best is not None and best.name == ending.position.best_at
    assert kept == sorted({"step-000009", "step-000010", best.name})
    scores = {row["steps"]: row["validation"]["error"] for row in read_log(tmp_path) if "validation" in row}
    assert best.name == f"step-{min(scores, key=lambda step: scores[step]):06d}"


def test_notes_and_failures_come_out_of_reading_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ToySamples.__getitem__

    def failing(self: ToySamples, number: int) -> dict[str, Tensor]:
        if number == 20:
            raise MediaError("clip 20 is broken", hint="mend it")
        return read(self, number) | {"note": "about 5" if number == 5 else ""}  # type: ignore[dict-item]

    monkeypatch.setattr(ToySamples, "__getitem__", failing)
    events: list[Event] = []
    with pytest.raises(MediaError, match=r"^clip 20 is broken$") as caught:
        run_toy(tmp_path, workers=1, report=events.append)
    assert caught.value.hint == "mend it"
    assert Note("about 5", "warning") in events


def test_the_log_is_one_object_a_line_and_tensorboard(tmp_path: Path) -> None:
    run_toy(tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert row["samples"] == 24 and {"squared", "absolute"} == row["losses"].keys()
    assert {"learning_rate", "gradient_norm", *TIMES} <= row.keys()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_cosine_ends_at_its_share() -> None:
    table = TOY.optimizer.replaced(learning_rate=1.0, warmup_samples=10, final_share=0.1)
    assert [round(learning_rate(table, k, 110), 3) for k in (5, 10, 60, 110)] == [0.5, 1.0, 0.55, 0.1]
