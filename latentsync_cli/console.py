"""What a person sees: plan, bar and notes on stderr, results on stdout, failures as two lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from latentsync.errors import LatentSyncError
from latentsync.events import Event, Measured, Note, Plan, Progress, Report, format_duration

if TYPE_CHECKING:
    from tqdm import tqdm

INTERRUPTED = 130  # the exit code of whatever Ctrl-C or a signal ends, as in shells
PIPE_COLUMNS = 120  # the width of tables where there is no terminal


class _Screen(logging.Handler):
    """A report that draws events on stderr: a bar for each stage.

    As a logging handler it also shows the warnings of the package, such as a damaged packet that is left out.
    """

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(logging.WARNING)
        self.quiet = quiet
        self.bar: tqdm[NoReturn] | None = None
        self.stage = ""
        self.done = self.first = self.tenths = 0
        self.since_s = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Plan(lines):
                self.end_bar()
                for line in () if self.quiet else lines:
                    self._print(line)
            case Note(message, level):
                if level != "info":
                    self._print(f"warning: {message}", style="yellow")
                elif not self.quiet:
                    self._print(f"note: {message}")
            case Measured(step, values):
                if not self.quiet:
                    self._print(
                        f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                    )
            case Progress():
                if not self.quiet:
                    self._advance(event)

    def emit(self, record: logging.LogRecord) -> None:
        self._print(f"warning: {record.getMessage()}", style="yellow")

    def end_bar(self) -> None:
        """Leave the bar as it is and start a new line after it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _print(self, line: str, *, style: str | None = None) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            _print_error_line(line, style=style)

    def _advance(self, event: Progress) -> None:
        """Draw a bar for each stage, named from the start; without a terminal, a line for each tenth."""
        if event.stage != self.stage or event.done < self.done:
            self.end_bar()
            self.stage, self.first, self.since_s = event.stage, event.done, time.monotonic()
            self.tenths = _tenths(event)
        self.done = event.done
        if not sys.stderr.isatty():
            self._advance_line(event)
            return
        if self.bar is None:
            self.bar = self._new_bar(event)
        self.bar.set_postfix_str(event.note, refresh=False)
        self.bar.total = event.total
        self.bar.update(max(0, event.done - int(self.bar.n)))

    def _new_bar(self, event: Progress) -> tqdm[NoReturn]:
        """Counts the speed from the first report of the stage on: what came before it was another stage."""
        from tqdm import tqdm

        return tqdm(
            desc=event.stage,
            total=event.total,
            initial=event.done,
            unit=event.unit,
            bar_format=None if event.total else "{desc} {elapsed}",
            smoothing=0.1,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def _advance_line(self, event: Progress) -> None:
        if event.total is None or _tenths(event) == self.tenths:
            return
        self.tenths = _tenths(event)
        took_s = time.monotonic() - self.since_s
        left_s = took_s * (event.total - event.done) / max(1, event.done - self.first)
        left = "" if event.done == event.total else f", {format_duration(left_s)} left"
        note = f", {event.note}" if event.note else ""
        self._print(f"{event.stage}: {event.done} of {event.total} {event.unit}{note}{left}")


def _tenths(event: Progress) -> int:
    return 10 * event.done // event.total if event.total else 0


_screens: list[_Screen] = []  # whose bars must end before a result or a failure is printed


def make_report(quiet: bool) -> Report:
    """A report for one run; with `quiet`, only warnings are shown."""
    screen = _Screen(quiet=quiet)
    _screens.append(screen)
    logging.getLogger("latentsync").addHandler(screen)
    return screen


def end_bars() -> None:
    """Leave every bar as it is, so that what is printed next starts on a line of its own."""
    while _screens:
        screen = _screens.pop()
        logging.getLogger("latentsync").removeHandler(screen)
        screen.end_bar()


def show(
    values: Mapping[str, object],
    *,
    as_json: bool,
    quiet: bool = False,
    words: Iterable[str] = (),
    text: Iterable[str] = (),
    paths: Iterable[Path] = (),
) -> None:
    """Show the result of a command.

    Args:
        values: all of it, for `--json`; nothing else is printed then.
        quiet: leave `words` out.
        words: lines for the person, on stderr.
        text: the answer to a question, on stdout.
        paths: what was written, on stdout, last.
    """
    end_bars()
    if as_json:
        show_json(values)
        return
    for line in text:
        print(line)
    for line in () if quiet else words:
        print_message(line)
    for path in paths:
        wrote(path)


def wrote(path: Path) -> None:
    """Name one finished artefact on stdout. Plainly: rich would fold a long path in a pipe."""
    end_bars()
    print(path)


_is_json_shown = False


def show_json(result: Mapping[str, object]) -> None:
    """Print `result` on stdout as one JSON object. Bytes of a name that are not UTF-8 are escaped."""
    global _is_json_shown
    end_bars()
    text = json.dumps(result, indent=2, ensure_ascii=False, default=str)
    print(text.encode("utf-8", "backslashreplace").decode())
    _is_json_shown = True


def table(
    title: str,
    rows: Sequence[Sequence[str]],
    *,
    columns: Sequence[str] = (),
    pipe_columns: int = PIPE_COLUMNS,
) -> None:
    """Print rows on stdout, folded to the width of the terminal; without `columns` there is no header."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    screen = Console(highlight=False, width=pipe_columns if is_plain else None)
    drawn = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    drawn.show_header = bool(columns)
    for column in columns or [""] * max(map(len, rows), default=1):
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    for line in screen.render_lines(drawn, pad=False):
        print("".join(segment.text for segment in line).rstrip())


def print_message(line: str) -> None:
    """One line for the person, on stderr."""
    end_bars()
    _print_error_line(line)


def show_failure(error: LatentSyncError, *, as_json: bool = False) -> None:
    """The error and what can be done about it, on stderr; with `as_json`, as one object on stdout, too."""
    end_bars()
    _print_error_line(f"error: {error}", style="red")
    if error.hint:
        _print_error_line(f"hint:  {error.hint}")
    if as_json and not _is_json_shown:
        show_json({"error": str(error), "hint": error.hint, "exit_code": error.exit_code})


def survive_closed_pipes() -> None:
    """Let a run outlive whoever reads its output, as in `latentsync … 2>&1 | head -1`.

    Names of files that are not UTF-8 come out as the bytes that they are.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Lasting):
            continue
        with suppress(AttributeError, ValueError, OSError):  # a stand-in of a test or a notebook
            stream.reconfigure(errors="surrogateescape" if name == "stdout" else "backslashreplace")
        setattr(sys, name, _Lasting(stream))


class _Lasting:
    """A stream that goes on, writing nothing, once its other end is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._given = stream

    def write(self, text: str) -> int:
        try:
            if self._stream is not None:
                self._stream.write(text)
        except BrokenPipeError:
            self._close()
        return len(text)

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except BrokenPipeError:
            self._close()

    def _close(self) -> None:
        self._stream = None
        with suppress(OSError, ValueError):  # what libraries and the interpreter still write goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._given.fileno())

    def __getattr__(self, name: str) -> object:
        return getattr(self._given, name)


def _print_error_line(line: str, *, style: str | None = None) -> None:
    """A line that is never folded, highlighted or read as markup; coloured on a terminal unless NO_COLOR."""
    if not sys.stderr.isatty():
        print(line, file=sys.stderr)
        return
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style=style, markup=False)
