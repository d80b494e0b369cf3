"""Fixtures that find the golden cases and the media, or skip the test that asks for them."""

from __future__ import annotations

import importlib.util
import os
import signal
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
