"""The output folder of a run: faults that a person can cause, in words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from latentsync.errors import MediaError, RecipeError
from latentsync.workers.outputs import RECIPE, explained, keep_recipe


def test_the_same_recipe_is_accepted_in_whatever_order(tmp_path: Path) -> None:
    keep_recipe(tmp_path, "a = 1\nb = 2\n[t]\nc = 3\n")
    keep_recipe(tmp_path, "b = 2\na = 1\nt.c = 3\n")
    assert [path.name for path in tmp_path.iterdir()] == [RECIPE]


def test_every_difference_is_named(tmp_path: Path) -> None:
    keep_recipe(tmp_path, "a = 1\n[t]\nc = 3\n")
    with pytest.raises(RecipeError) as stopped:
        keep_recipe(tmp_path, "a = 2\n[t]\nd = 'x'\n")
    assert "a is 1 there and 2 now; t.c is 3 there and not set now; t.d is not set there and 'x' now" in str(
        stopped.value
    )
    assert str(tmp_path / RECIPE) in str(stopped.value.hint)


def test_a_damaged_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_bytes(b"\xff = ")
    with pytest.raises(RecipeError, match=r"recipe\.toml': is not a text file"):
        keep_recipe(tmp_path, "a = 1\n")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with pytest.raises(MediaError, match=r"file/out': cannot be written \(Not a directory\)"), explained(out):
        out.mkdir(parents=True)


def test_a_full_disk_says_what_is_free_and_what_helps(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError, match=r"full, [0-9.]+ MB are free") as stopped,
        explained(tmp_path / "new"),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert "same command again" in str(stopped.value.hint)
