"""`latentsync train-syncnet`: train the network that tells whether frames and speech belong together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import (
    Device,
    DeviceOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SetOption,
)

if TYPE_CHECKING:
    from latentsync.recipe.training import SyncNetRecipe
    from latentsync.train_syncnet import TrainSyncNetResult

INTERRUPTED = 130


class DecodedCache(StrEnum):
    """Whether clips are decoded once, before the training."""

    auto = "auto"
    yes = "yes"
    no = "no"


DataOption = Annotated[
    Path,
    typer.Option(help="Processed clips: the OUT of `latentsync preprocess`, its manifest, or a folder."),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Checkpoints, log and pictures; a run in it is continued.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read data.", show_default="one for each core but one"),
]
DecodedOption = Annotated[
    DecodedCache,
    typer.Option(help="Keep the clips decoded beside the data; auto: if they fit 8 GB."),
]
StopOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0, help="Save and stop after so much training.")
]


def train_syncnet(
    data: DataOption = Path("data"),
    output: OutputOption = Path("runs/syncnet"),
    recipe: RecipeOption = "syncnet",
    settings: SetOption = None,
    device: DeviceOption = Device.auto,
    workers: WorkersOption = None,
    decoded_cache: DecodedOption = DecodedCache.auto,
    stop_after_s: StopOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the SyncNet on processed clips. The same command again continues."""
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.training import SyncNetRecipe
    from latentsync.train_syncnet import TrainSyncNetJob, run

    chosen = load_recipe(recipe, SyncNetRecipe, overrides=settings or [])
    job = TrainSyncNetJob(
        data=data,
        output=output,
        device=device.value,
        workers=workers,
        decoded_cache=decoded_cache.value,
        stop_after_s=stop_after_s,
        dry_run=dry_run,
    )
    result = run(job, chosen, console.make_report(quiet))
    if result.is_main:
        _show(result, chosen, as_json=as_json, quiet=quiet)
    if result.reason == "signal":
        raise SystemExit(INTERRUPTED)


def _show(result: TrainSyncNetResult, recipe: SyncNetRecipe, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        console.show_json(result.as_dict())
    elif result.weights is None:
        from latentsync.recipe.loading import dump_recipe

        console.end_bars()
        print(dump_recipe(recipe), end="")
    else:
        if not quiet:
            stopped = "" if result.reason == "finished" else "; stopped early, the same command continues"
            console.say(f"{result.samples} samples in {result.took_s:.0f} s{stopped}; the network:")
        console.wrote(result.weights)
