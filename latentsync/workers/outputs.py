"""The folder that a run of many tasks writes into: made with one recipe, and free of leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latentsync.errors import MediaError, RecipeError
from latentsync.recipe.loading import differences
from latentsync.workers.pool import NO_SPACE

RECIPE = "recipe.toml"


def keep_recipe(out: Path, recipe_toml: str) -> None:
    """Write the recipe into `out`, or compare it with the one that is there.

    Raises:
        RecipeError: `out` was made with another recipe.
        OSError: it cannot be read or written.
    """
    path = out / RECIPE
    if not path.exists():
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        part.write_text(recipe_toml, encoding="utf-8")
        part.replace(path)
    differing = differences(_read(path), tomllib.loads(recipe_toml))
    if differing:
        raise RecipeError(
            f"'{out}': was made with another recipe: {'; '.join(differing.values())}",
            hint=f"name another out folder, or go on with --recipe '{path}'",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not text
        raise RecipeError(
            f"'{path}': is damaged ({error})", hint="name a new out folder, or restore this file"
        ) from error


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Say which folder cannot be written, and what helps."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise MediaError(
                f"'{error.filename or out}': cannot be written ({error.strerror})",
                hint="choose another folder",
            ) from error
        free_mb = shutil.disk_usage(nearest(out)).free / 1e6
        raise MediaError(
            f"'{out}': the disk is full, {free_mb:.1f} MB are free",
            hint="free some space: the same command then goes on, nothing that was finished is lost",
        ) from error


def nearest(path: Path) -> Path:
    """The folder that is there on the way to `path`."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def sweep(folder: Path, *, is_wanted: Callable[[str], bool]) -> None:
    """Remove unfinished parts, which killed workers leave in `folder`, and files that nobody has logged.

    Args:
        is_wanted: whether the file at this path within `folder` was logged.
    """
    for inside, _, names in os.walk(folder):
        for path in (Path(inside, name) for name in names):
            if ".part" in path.suffixes or not is_wanted(path.relative_to(folder).as_posix()):
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # only if that was the last one in it
