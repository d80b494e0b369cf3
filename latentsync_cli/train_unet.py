"""`latentsync train-unet`: train the U-Net that generates the mouth, stage 1 or 2."""

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
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for checkpoints, log and videos; a run in it is resumed.",
        show_default="runs/ and the recipe's name",
    ),
]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--from",  # torchrun would take --start for its own
        metavar="NAME|PATH",
        help="Weights to start from, short for --set weights.start: a name, scratch, or a file.",
        show_default="as in the recipe",
    ),
]


def train_unet(
    data: DataOption = Path("data"),
    output: OutputOption = None,
    recipe: RecipeOption = "stage2",
    settings: SetOption = None,
    start: StartOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    decoded_cache: DecodedOption = "auto",
    decoder: DecoderOption = "auto",
    stop_after_s: StopOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the U-Net on processed clips, stage 1 or 2. Run the same command again to resume."""
    import json

    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.train_unet import UNetTrainingRecipe
    from latentsync.train.setup import TrainingJob
    from latentsync.train.unet.run import run

    changes = [*(settings or []), *([] if start is None else [f"weights.start={json.dumps(start)}"])]
    chosen = load_recipe(recipe, UNetTrainingRecipe, overrides=changes)
    job = TrainingJob(
        data=data,
        output=Path("runs") / name_of_run(recipe) if output is None else output,
        device=device,
        workers=workers,
        decoded_cache=decoded_cache,
        decoder=decoder,
        stop_after_s=stop_after_s,
        dry_run=dry_run,
    )
    result = run(job, chosen, console.make_report(quiet))
    end_training(result, chosen, as_json=as_json, quiet=quiet)


def name_of_run(recipe: str) -> str:
    """The folder under runs/ that a recipe's run goes to.

    >>> name_of_run("stage2.toml"), name_of_run("compact/stage1"), name_of_run("/home/me/mine.toml")
    ('stage2', 'compact-stage1', 'mine')
    """
    path = Path(recipe)
    if path.is_absolute() or path.parts[0] in (".", "..", "recipes"):
        return path.stem
    return "-".join(path.with_suffix("" if path.suffix == ".toml" else path.suffix).parts)
