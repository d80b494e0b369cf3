"""What a person sees, and on which stream."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from latentsync.errors import FaceError
from latentsync.events import Measured, Note, Plan, Progress
from latentsync_cli import console

LONG = Path("/a/very/long/folder/name/that/goes/on/and/on") / ("x" * 120) / "out [1].mp4"


def test_events_go_to_stderr_and_nothing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(False)
    report(Plan(("model compact", "device cpu")))
    report(Progress("denoise", 5, 10))
    report(Note("3 frames have no face [ok]"))
    report(Measured(7, {"loss": 0.25}))
    console.end_bars()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("model compact\ndevice cpu\n")
    assert "denoise" not in shown.err  # the first tenth of a stage is not over
    assert "note: 3 frames have no face [ok]\n" in shown.err
    assert "step 7: loss 0.25\n" in shown.err


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(True)
    report(Plan(("model compact",)))
    report(Progress("denoise", 5, 10))
    report(Note("fine"))
    report(Note("no face for 2 s", level="warning"))
    assert capsys.readouterr().err.strip() == "warning: no face for 2 s"


def test_without_a_terminal_a_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(False)
    report(Progress("loading", 0, None))
    for done in range(1, 41):
        report(Progress("sync", done, 40))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("sync: 4 of 40 frames, ") and lines[0].endswith(" left")
    assert lines[-1] == "sync: 40 of 40 frames"


def test_a_terminal_shows_a_named_bar_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = console.make_report(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    report(Progress("loading", 0, None))
    report(Progress("sync", 16, 40))
    report(Progress("sync", 40, 40, note="ok"))
    console.end_bars()
    bars = capsys.readouterr().err.replace("\r", "\n").split("\n")
    shown = [bar.strip() for bar in bars if bar.strip()]
    assert shown[0].startswith("loading 00:00")
    assert all(bar.startswith(("loading", "sync")) for bar in shown)
    assert "40/40" in shown[-1] and shown[-1].endswith("ok]")


def test_results_are_plain_lines_after_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(False)
    report(Progress("encode", 1, 2))
    console.wrote(LONG)
    shown = capsys.readouterr()
    assert shown.out == f"{LONG}\n"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"output": LONG, "frames": 3, "note": "é"})
    assert json.loads(capsys.readouterr().out) == {"output": str(LONG), "frames": 3, "note": "é"}


def test_a_failure_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_failure(FaceError("'a [b].mp4': no face", hint="name another file"))
    assert capsys.readouterr().err == "error: 'a [b].mp4': no face\nhint:  name another file\n"
