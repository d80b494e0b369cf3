"""The folder that a run of many tasks writes into: made with one recipe, and free of leftovers."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentsync.errors import MediaError, RecipeError
from latentsync.files import free_bytes, whole_or_nothing
from latentsync.recipe.loading import differences, read_toml
from latentsync.workers.pool import NO_SPACE

RECIPE = "recipe.toml"


def keep_recipe(out: Path, recipe_toml: str) -> None:
    """Write the recipe into `out`, or compare it with the one in it.

    Raises:
        RecipeError: `out` was made with another recipe, or the recipe in it is damaged.
        OSError: it cannot be written.
    """
    path = out / RECIPE
    if not path.exists():
        with whole_or_nothing(path) as part:
            part.write_text(recipe_toml, encoding="utf-8")
    try:
        there = read_toml(path)
    except RecipeError as error:
        raise RecipeError(str(error), hint="name a new output folder, or restore this file") from error
    differing = differences(there, tomllib.loads(recipe_toml))
    if differing:
        raise RecipeError(
            f"'{out}': was made with another recipe: {'; '.join(differing.values())}",
            hint=f"name another output folder, or continue with --recipe '{path}'",
        )


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turn an OSError into a message that names the file or folder, and what helps."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise MediaError(
                f"'{error.filename or out}': cannot be written ({error.strerror})",
                hint="choose another folder",
            ) from error
        raise MediaError(
            f"'{out}': the disk is full, {free_bytes(out) / 1e6:.1f} MB are free",
            hint="free some space and run the same command again: what is finished is kept",
        ) from error


def sweep(folder: Path, *, is_wanted: Callable[[str], bool]) -> None:
    """Remove unfinished parts, which killed workers leave in `folder`, and files that no log lists.

    Only for a folder in which nobody writes: parts of living writers are removed, too.

    Args:
        is_wanted: whether a log lists the file at this path within `folder`.
    """
    for inside, _, names in os.walk(folder):
        for path in (Path(inside, name) for name in names):
            if ".part" in path.suffixes or not is_wanted(path.relative_to(folder).as_posix()):
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # only if that was the last one in it
