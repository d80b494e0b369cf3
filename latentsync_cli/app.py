"""The command line's root: which commands there are, and how every failure ends."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from latentsync import __version__
from latentsync.errors import LatentSyncError, MediaError, MemoryShortage
from latentsync_cli import console, models
from latentsync_cli.doctor import doctor
from latentsync_cli.evaluate import evaluate
from latentsync_cli.preprocess import preprocess
from latentsync_cli.sync import sync
from latentsync_cli.train_syncnet import train_syncnet
from latentsync_cli.train_unet import train_unet

INTERRUPTED = 130
BUG = 1


class CommandGroup(TyperGroup):
    """Leaves no word to typer when a run is interrupted."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.say("interrupted: no unfinished file is left behind")
            raise SystemExit(INTERRUPTED) from None


app = typer.Typer(
    cls=CommandGroup,
    name="latentsync",
    help="Drive the mouth in a video with speech.",
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
app.command()(doctor)
app.add_typer(models.app, name="models")


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
    try:
        app(prog_name="latentsync")
    except Exception as error:
        console.end_bars()
        known = _known(error)
        if known is None:
            traceback.print_exc()
            console.say("error: this is a bug in latentsync, please report it with the lines above")
            raise SystemExit(BUG) from None
        console.show_failure(known)
        raise SystemExit(known.exit_code) from None


def _known(error: Exception) -> LatentSyncError | None:
    """`error` as a failure with a remedy, or None if it is a bug."""
    if isinstance(error, LatentSyncError):
        return error
    if _is_memory(error):
        return MemoryShortage(
            "out of memory",
            hint="close other programs, use a smaller video or --model compact, or --device cpu",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"'{error.filename}': " if error.filename else ""
        return MediaError(
            f"{where}the disk is full", hint="free some space, or write to another disk with -o"
        )
    return None


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out. Never imports torch: where it is not loaded, it did not raise."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)
