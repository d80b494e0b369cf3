"""What `latentsync doctor` prints, and how it ends."""

from __future__ import annotations

import json

import pytest

from latentsync import doctor as core
from latentsync.doctor import Ability, Check, DoctorResult
from tests.conftest import Outcome, RunCli

CHECKS = (
    Check("torch", "ok", "2.13.0 (>=2.4)", group="packages"),
    Check("ray", "warning", "not installed", "preprocess", "pip install 'latentsync[ray]'", "packages"),
    Check("aac", "ok", "encodes", "sound", group="codecs"),
)
READY = Ability("latentsync sync VIDEO SPEECH", True, "model compact on the device cpu")
NOT_READY = Ability("latentsync sync VIDEO SPEECH", False, "libx264 does not open", "pip install av")
PRINTED = """\
packages
ok       torch  2.13.0 (>=2.4)
warning  ray    not installed; for preprocess
                -> pip install 'latentsync[ray]'

codecs
ok  aac  encodes

what will run
yes  latentsync sync VIDEO SPEECH  model compact on the device cpu
"""


def find(ability: Ability, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the core find `ability`."""
    monkeypatch.setattr(core, "run", lambda job, report: DoctorResult(CHECKS, (ability,)))


def test_ready(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    find(READY, monkeypatch)
    assert run_cli("doctor") == Outcome(0, PRINTED, "")


def test_not_ready(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    find(NOT_READY, monkeypatch)
    ended = run_cli("doctor")
    assert ended.code == 1 and ended.out.endswith("-> pip install av\n")
    shown = json.loads(run_cli("doctor", "--json").out)
    assert shown["is_ready"] is False
    assert shown["checks"][1]["remedy"] == "pip install 'latentsync[ray]'"
    assert shown["abilities"][0]["reason"] == "libx264 does not open"


def test_nothing_is_wider_than_the_terminal(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    find(NOT_READY, monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, run_cli("doctor").out.splitlines())) <= 40
