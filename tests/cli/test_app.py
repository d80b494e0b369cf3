"""How every failure ends: its exit code, its two lines, and no traceback unless it is a bug."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from latentsync import __version__, errors
from latentsync_cli import app as cli
from latentsync_cli import console
from tests.conftest import RunCli

FAILURES = [
    (
        errors.UsageError("out.mp4 is there", hint="use --force"),
        2,
        "error: out.mp4 is there\nhint:  use --force\n",
    ),
    (errors.RecipeError("a"), 3, "error: a\n"),
    (errors.MediaError("a"), 4, "error: a\n"),
    (errors.FaceError("a"), 5, "error: a\n"),
    (errors.WeightsError("a"), 6, "error: a\n"),
    (MemoryError(), 7, "error: out of memory\n"),
    (torch.OutOfMemoryError("CUDA"), 7, "error: out of memory\n"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 7, "error: out of memory\n"),
    (ImportError("a.so: failed to map segment from shared object"), 7, "error: out of memory\n"),
    (RuntimeError("could not create a primitive"), 7, "error: out of memory\n"),
    (OSError(errno.ENOSPC, "No space left", "a.mp4"), 4, "error: 'a.mp4': the disk is full\n"),
    (KeyboardInterrupt(), 130, "interrupted: no unfinished file is left behind\n"),
]


def end_of(
    failure: BaseException | None, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> int | str | None:
    """The exit code of an executable whose only command fails like that."""
    app = typer.Typer(cls=cli.CommandGroup, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def fail(count: int = 0, json: bool = False) -> None:
        if failure is not None:
            raise failure

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["latentsync", "fail", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.mark.parametrize(
    ("failure", "code", "shown"), FAILURES, ids=[type(case[0]).__name__ for case in FAILURES]
)
def test_a_foreseen_failure(
    failure: BaseException,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert end_of(failure, monkeypatch) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(shown)
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_bug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(KeyError("x"), monkeypatch) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: this is a bug in latentsync, please report it with the lines above\n")


def test_weights_that_memory_did_not_suffice_for_are_not_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = errors.WeightsError("is damaged")
    failure.__cause__ = ImportError("a.so: failed to map segment from shared object")
    assert end_of(failure, monkeypatch) == 7
    assert capsys.readouterr().err.startswith("error: out of memory\n")


@pytest.mark.parametrize(
    ("failure", "arguments", "expected"),
    [
        (errors.FaceError("no face", hint="b"), (), {"error": "no face", "hint": "b", "exit_code": 5}),
        (KeyboardInterrupt(), (), {"error": "interrupted", "hint": None, "exit_code": 130}),
        (KeyError("x"), (), {"exit_code": 1}),
        (None, ("--count", "many"), {"hint": "see --help", "exit_code": 2}),
    ],
)
def test_a_failure_is_one_json_object(
    failure: BaseException | None,
    arguments: tuple[str, ...],
    expected: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "_is_json_shown", False)
    assert end_of(failure, monkeypatch, "--json", *arguments) == expected["exit_code"]
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"error", "hint", "exit_code"}
    assert shown | expected == shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_as_ctrl_c_does(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    app = typer.Typer(cls=cli.CommandGroup, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("wait")(lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["latentsync", "wait"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    assert signal.getsignal(number) == before


def test_a_reader_that_leaves_stops_nothing(tmp_path: Path) -> None:
    """As in `latentsync … 2>&1 | head -1`."""
    done = tmp_path / "done"
    program = (
        "import pathlib, sys\n"
        "from latentsync_cli import console\n"
        "console.survive_closed_pipes()\n"
        "sys.stdin.read()\n"
        "for _ in range(3):\n    console.print_message('x' * 100_000)\n    print('y', flush=True)\n"
        f"pathlib.Path({str(done)!r}).touch()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert running.stdin is not None and running.stdout is not None
    running.stdout.close()
    running.stdin.close()
    assert running.wait() == 0
    assert done.exists()


def test_success_and_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(None, monkeypatch) == 0
    assert end_of(None, monkeypatch, "--count", "many") == 2
    assert "--count" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["latentsync", "latentsync_cli"])
def test_it_runs_as_a_module(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"latentsync {__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["sync"], ["models"], ["models", "pull"], ["doctor"], ["train-unet"]]
)
def test_short_help(command: list[str], run_cli: RunCli) -> None:
    ended = run_cli(*command, "-h")
    assert ended.code == 0
    assert ended.out.startswith("Usage: latentsync " + " ".join(command))
