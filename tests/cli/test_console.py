"""What a person sees, and on which stream."""

from __future__ import annotations

import json
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
    assert "denoise:  50%" in shown.err
    assert "note: 3 frames have no face [ok]\n" in shown.err
    assert "step 7: loss 0.25\n" in shown.err


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(True)
    report(Plan(("model compact",)))
    report(Progress("denoise", 5, 10))
    report(Note("fine"))
    report(Note("no face for 2 s", level="warning"))
    assert capsys.readouterr().err.strip() == "warning: no face for 2 s"


def test_a_bar_with_an_unknown_end_learns_it_and_never_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(False)
    report(Progress("decode", 3, None))
    report(Progress("denoise", 2, 4))
    report(Progress("encode", 4, 4))
    console.end_bars()
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("encode: 100%")
    assert "4/4" in last


def test_results_are_plain_lines_after_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    report = console.make_report(False)
    report(Progress("encode", 1, 2))
    console.wrote(LONG)
    shown = capsys.readouterr()
    assert shown.out == f"{LONG}\n"
    assert shown.err.endswith("\n")


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"output": LONG, "frames": 3, "note": "é"})
    assert json.loads(capsys.readouterr().out) == {"output": str(LONG), "frames": 3, "note": "é"}


def test_a_failure_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_failure(FaceError("'a [b].mp4': no face", hint="name another file"))
    assert capsys.readouterr().err == "error: 'a [b].mp4': no face\nhint:  name another file\n"
