"""How every failure ends: its exit code, its two lines, and no traceback unless it is a bug."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import torch
import typer

from latentsync import __version__, errors
from latentsync_cli import app as cli

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
    def fail(count: int = 0) -> None:
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
def test_short_help(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["latentsync", *command, "-h"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: latentsync " + " ".join(command))


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["latentsync", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"latentsync {__version__}\n"
