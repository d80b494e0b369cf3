"""What `latentsync doctor` prints, and how it ends."""

from __future__ import annotations

import json
import sys

import pytest

from latentsync import doctor as core
from latentsync.doctor import Ability, Check, DoctorResult
from latentsync_cli import app as cli

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


def end_of(ability: Ability, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command where the core finds `ability`."""
    monkeypatch.setattr(core, "run", lambda job, report: DoctorResult(CHECKS, (ability,)))
    monkeypatch.setattr(sys, "argv", ["latentsync", "doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_ready(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(READY, monkeypatch) == 0
    assert capsys.readouterr() == (PRINTED, "")


def test_not_ready(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(NOT_READY, monkeypatch) == 1
    shown = capsys.readouterr().out
    assert shown.endswith("-> pip install av\n")


def test_nothing_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    end_of(NOT_READY, monkeypatch)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(NOT_READY, monkeypatch, "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["is_ready"] is False
    assert shown["checks"][1]["remedy"] == "pip install 'latentsync[ray]'"
    assert shown["abilities"][0]["reason"] == "libx264 does not open"
