"""What a person sees: plan, bar and notes on stderr, results on stdout, failures as two lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from latentsync.errors import LatentSyncError
from latentsync.events import Event, Measured, Note, Plan, Progress, Report

if TYPE_CHECKING:
    from tqdm import tqdm


class _Screen:
    """A report that draws events on stderr: one bar, named after the stage that reported last."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[NoReturn] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Plan(lines):
                self.close()
                for line in () if self.quiet else lines:
                    self._say(line)
            case Note(message, level):
                if level != "info":
                    self._say(f"warning: {message}", style="yellow")
                elif not self.quiet:
                    self._say(f"note: {message}")
            case Measured(step, values):
                if not self.quiet:
                    self._say(
                        f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                    )
            case Progress():
                if not self.quiet:
                    self._advance(event)

    def close(self) -> None:
        """Leave the bar as it stands and start a new line after it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _say(self, line: str, *, style: str | None = None) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            _print_error_line(line, style=style)

    def _advance(self, event: Progress) -> None:
        from tqdm import tqdm

        if self.bar is not None and event.done < self.bar.n and event.total != self.bar.total:
            self.close()  # another kind of work, counted from the start again
        if self.bar is None:
            self.bar = tqdm(total=event.total, unit=f" {event.unit}", file=sys.stderr, dynamic_ncols=True)
        bar = self.bar
        bar.set_description_str(event.stage, refresh=False)
        bar.set_postfix_str(event.note, refresh=False)
        bar.total = event.total
        bar.update(max(0, event.done - int(bar.n)))


_screens: list[_Screen] = []  # whose bars must end before a result or a failure is printed


def make_report(quiet: bool) -> Report:
    """A report for one run; with `quiet`, only warnings are shown."""
    _screens.append(_Screen(quiet=quiet))
    return _screens[-1]


def end_bars() -> None:
    """Leave every bar as it stands, so that what is printed next starts on a line of its own."""
    while _screens:
        _screens.pop().close()


def wrote(path: Path) -> None:
    """Name one finished artefact on stdout. Plainly: rich would fold a long path in a pipe."""
    end_bars()
    print(path)


def show_json(result: Mapping[str, object]) -> None:
    """Print `result` on stdout as one JSON object."""
    end_bars()
    print(json.dumps(result, indent=2, ensure_ascii=False, default=str))


def say(line: str) -> None:
    """One line for the person, on stderr."""
    end_bars()
    _print_error_line(line)


def show_failure(error: LatentSyncError) -> None:
    """The error and what can be done about it, on stderr."""
    end_bars()
    _print_error_line(f"error: {error}", style="red")
    if error.hint:
        _print_error_line(f"hint:  {error.hint}")


def _print_error_line(line: str, *, style: str | None = None) -> None:
    """A line that is never folded, highlighted or read as markup; coloured on a terminal unless NO_COLOR."""
    if not sys.stderr.isatty():
        print(line, file=sys.stderr)
        return
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style=style, markup=False)
