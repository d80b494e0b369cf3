"""`latentsync train-syncnet`: train the network that tells whether frames and speech belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import (
    DeviceOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SetOption,
)
from latentsync_cli.training import (
    DataOption,
    DecodedOption,
    DecoderOption,
    StopOption,
    WorkersOption,
    end_training,
)

OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder for checkpoints, log and pictures; a run in it is resumed."),
]


def train_syncnet(
    data: DataOption = Path("data"),
    output: OutputOption = Path("runs/syncnet"),
    recipe: RecipeOption = "syncnet",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    decoded_cache: DecodedOption = "auto",
    decoder: DecoderOption = "auto",
    stop_after_s: StopOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the SyncNet on processed clips. Run the same command again to resume."""
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.train_syncnet import SyncNetRecipe
    from latentsync.train.setup import TrainingJob
    from latentsync.train.syncnet.run import run

    chosen = load_recipe(recipe, SyncNetRecipe, overrides=settings or [])
    job = TrainingJob(
        data=data,
        output=output,
        device=device,
        workers=workers,
        decoded_cache=decoded_cache,
        decoder=decoder,
        stop_after_s=stop_after_s,
        dry_run=dry_run,
    )
    result = run(job, chosen, console.make_report(quiet))
    end_training(result, chosen, as_json=as_json, quiet=quiet)
