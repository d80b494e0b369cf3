"""The command line in this process, and where the golden cases and the media are."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from latentsync.compat import make_torchvision_importable

make_torchvision_importable()
# In a background job or under nohup these are ignored, and what the tests start would inherit that.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str


RunCli = Callable[..., Outcome]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Runs the command line in this process, which spares the start."""
    from latentsync_cli import app as cli

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["latentsync", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} is not set and {default} is not there")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden cases."""
    return _folder("LATENTSYNC_GOLDEN", "reference/golden")


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos and speech."""
    return _folder("LATENTSYNC_MEDIA", "media")


@pytest.fixture(scope="session")
def synthetic(golden: Path) -> ModuleType:
    """The module that makes the golden cases' stand-in weights and inputs."""
    spec = importlib.util.spec_from_file_location("synthetic_weights", golden.parent / "synthetic_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
