"""The command line's root: which commands there are, and how every failure ends."""

from __future__ import annotations

import errno
import mmap
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from latentsync import __version__
from latentsync.errors import LatentSyncError, MediaError, MemoryShortage, UsageError
from latentsync_cli import console, models, recipes
from latentsync_cli.curves import curves
from latentsync_cli.doctor import doctor
from latentsync_cli.evaluate import evaluate
from latentsync_cli.preprocess import preprocess
from latentsync_cli.serve import serve, ui
from latentsync_cli.sync import sync
from latentsync_cli.train import train_syncnet, train_unet

BUG = 1
PROBE_BYTES = (
    256 << 20
)  # where less than this can be had, an error that nobody foresaw is taken for its result
# What libraries write when they get no memory and raise none of Python's own classes for it.
MEMORY_WORDS = (
    "cannot allocate memory",
    "can't allocate memory",
    "could not create a primitive",  # oneDNN
    "failed to allocate",
    "failed to map segment",  # the dynamic linker
    "insufficient memory",  # OpenCV
    "not enough memory",
    "out of memory",
    "outofmemoryerror",
    "std::bad_alloc",
)


class CommandGroup(TyperGroup):
    """Leaves no word to typer when a run is interrupted, or when its failure is wanted as JSON."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, since click would end with a word and a code of its own
            _end_interrupted()

    def main(self, *args: Any, **extra: Any) -> Any:
        if not _wants_json():
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except Exception as error:
            if not hasattr(error, "format_message"):  # typer's own: a flag that is unknown or wrong
                raise
            raise UsageError(error.format_message(), hint="see --help") from None
        raise SystemExit(code if isinstance(code, int) else 0)


def _wants_json() -> bool:
    arguments = sys.argv[1:]
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


app = typer.Typer(
    cls=CommandGroup,
    name="latentsync",
    help="Lip sync: make the mouth in a video follow any speech.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # of all commands below it, too
    rich_markup_mode=None,  # plain help: rich would cost a third of its time
    pretty_exceptions_enable=False,
)
app.command()(sync)
app.command()(preprocess)
app.command()(evaluate)
app.command()(train_syncnet)
app.command()(train_unet)
app.command()(curves)
app.command()(serve)
app.command()(ui)
app.command()(doctor)
app.add_typer(models.app, name="models")
app.add_typer(recipes.app, name="recipes")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"latentsync {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every failure ends here, in the exit codes that docs/architecture.md lists."""
    console.survive_closed_pipes()
    try:
        with _ended_by_signals():
            app(prog_name="latentsync")
    except KeyboardInterrupt:  # while typer still built the command
        _end_interrupted()
    except Exception as error:
        console.end_bars()
        known = _known(error)
        if known is None:
            traceback.print_exc()
            if not _is_memory_short():
                message = "this is a bug in latentsync, please report it with the lines above"
                console.show_failure(LatentSyncError(message), as_json=_wants_json())
                raise SystemExit(BUG) from None
            known = _out_of_memory()
        console.show_failure(known, as_json=_wants_json())
        raise SystemExit(known.exit_code) from None


def _end_interrupted() -> NoReturn:
    console.print_message("interrupted: no unfinished file is left behind")
    if _wants_json():
        console.show_json({"error": "interrupted", "hint": None, "exit_code": console.INTERRUPTED})
    raise SystemExit(console.INTERRUPTED) from None


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, so that it removes what is unfinished."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # One that is ignored stays ignored: nohup means it.
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, answer in before.items():
            if answer is not None:
                signal.signal(number, answer)


def _known(error: Exception) -> LatentSyncError | None:
    """`error` as a failure with a remedy, or None if it is a bug."""
    if isinstance(error, LatentSyncError):
        # What could not be loaded for want of memory is not damaged. A media file may state a size, though,
        # for which no memory would do: that stays its fault.
        is_memory = not isinstance(error, MediaError) and _is_memory(error.__cause__ or error.__context__)
        return _out_of_memory() if is_memory else error
    if _is_memory(error):
        return _out_of_memory()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"'{error.filename}': " if error.filename else ""
        return MediaError(
            f"{where}the disk is full", hint="free some space, or write to another disk with -o"
        )
    return None


def _out_of_memory() -> MemoryShortage:
    return MemoryShortage(
        "out of memory", hint="close other programs, use a smaller video or --model compact, or --device cpu"
    )


def _is_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, here or in what led to it: libraries have their own words for it."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        message = f"{type(error).__name__}: {error}".lower()
        is_foreign = not isinstance(error, LatentSyncError)
        if is_foreign and any(words in message for words in MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_memory_short() -> bool:
    """Whether the next large piece of memory would be refused, as under a limit of the address space."""
    try:
        mmap.mmap(-1, PROBE_BYTES).close()
    except (OSError, MemoryError, ValueError):
        return True
    return False
