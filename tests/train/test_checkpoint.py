"""Checkpoints on disk: damage is found before it is trained on, and costs one checkpoint, never all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError, UsageError, WeightsError
from latentsync.events import Event, Note
from latentsync.train.checkpoint import EMA_WEIGHTS, POSITION, RECIPE, STATE, SUMS, export_best, find_last
from latentsync.train.setup import owned_output
from tests.train.toy_run import TOY, run_toy

LONGER = TOY.with_run(samples=160)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints step-000008, the best, and step-000010."""
    output = tmp_path_factory.mktemp("trained")
    run_toy(output)
    return output


@pytest.fixture
def output(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def overwrite(path: Path) -> None:
    """Change 20 bytes in the middle, as a failing disk may."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(255 - value for value in content[middle : middle + 20])
    path.write_bytes(content)


@pytest.mark.parametrize("name", [STATE, EMA_WEIGHTS, "model.safetensors", POSITION, RECIPE])
@pytest.mark.parametrize("damage", [overwrite, Path.unlink], ids=["overwritten", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(
    output: Path, name: str, damage: Callable[[Path], object]
) -> None:
    last = output / "checkpoints" / "step-000010"
    damage(last / name)
    with pytest.raises(
        WeightsError, match=r"step-000010' is damaged: .*" + name.replace(".", r"\.")
    ) as caught:
        run_toy(output, LONGER)
    assert caught.value.hint == "remove the folder step-000010, and nothing else, to resume from step-000008"
    shutil.rmtree(last)
    assert run_toy(output, LONGER).position.samples == 160


def test_the_first_checkpoint_has_none_before_it(output: Path) -> None:
    shutil.rmtree(output / "checkpoints" / "step-000008")
    overwrite(output / "checkpoints" / "step-000010" / STATE)
    with pytest.raises(WeightsError) as caught:
        run_toy(output, LONGER)
    assert caught.value.hint == "remove the folder step-000010, and nothing else, to start again"


def test_a_checkpoint_without_hashes_is_resumed_from(output: Path) -> None:
    (output / "checkpoints" / "step-000010" / SUMS).unlink()
    assert run_toy(output, LONGER).position.samples == 160


def test_a_file_that_cannot_be_read_is_damage_even_without_hashes(output: Path) -> None:
    last = output / "checkpoints" / "step-000010"
    (last / SUMS).unlink()
    (last / STATE).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(WeightsError, match=r"step-000010' is damaged: state\.pt cannot be read"):
        run_toy(output, LONGER)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"..", b"step-000099", b"a" * 5000])
def test_a_pointer_that_names_no_checkpoint_is_passed_over(output: Path, content: bytes) -> None:
    checkpoints = output / "checkpoints"
    (checkpoints / "last").write_bytes(content)
    assert find_last(checkpoints) == checkpoints / "step-000010"


def test_damaged_lines_of_the_log_are_left_out_with_a_note(output: Path) -> None:
    log = output / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(
        b'\xff\xfe{"samples"\n{"samples": null, "steps": 1}\n[1]\n' + whole + b'{"samples": 80, "st'
    )
    events: list[Event] = []
    run_toy(output, LONGER, report=events.append)
    assert Note(f"'{log}': 3 damaged lines are skipped", "warning") in events
    assert log.read_bytes().startswith(whole)


def test_two_trainings_cannot_write_to_one_output(tmp_path: Path) -> None:
    second = owned_output(tmp_path, TOY)
    with owned_output(tmp_path, TOY), pytest.raises(UsageError, match="another training run is writing here"):
        second.__enter__()
    with owned_output(tmp_path, TOY):  # the first has ended
        pass


def test_without_a_checkpoint_there_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(LatentSyncError, match="no checkpoint is there"):
        export_best(tmp_path / "checkpoints", tmp_path / "unet.safetensors")
