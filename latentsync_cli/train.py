"""`latentsync train-syncnet` and `latentsync train-unet`: train the SyncNet, and the U-Net that it judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

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

if TYPE_CHECKING:
    from latentsync.events import Report
    from latentsync.recipe.training import TrainingRecipe
    from latentsync.train.setup import TrainingJob, TrainingResult

    AnyRecipe = TypeVar("AnyRecipe", bound=TrainingRecipe)

DecodedCache = Literal["auto", "yes", "no"]

DataOption = Annotated[
    Path,
    typer.Option(help="Processed clips: the OUT of `latentsync preprocess`, its manifest, or a folder."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Data-loading processes.", show_default="one less than there are cores"),
]
DecodedOption = Annotated[
    DecodedCache,
    typer.Option(help="Keep decoded clips next to the data; auto: if they fit in 8 GB."),
]
DecoderOption = Annotated[
    Literal["auto", "pyav", "decord"],
    typer.Option(
        help="What decodes clips that are not kept decoded; auto: decord on CUDA, where it is installed."
    ),
]
TrackerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Where to show the run: tensorboard, wandb, mlflow or none; repeatable.",
        show_default="tensorboard",
    ),
]
StopOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Save and stop after this many seconds of training."),
]
SyncNetOutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder for checkpoints, log and pictures; a run in it is resumed."),
]
UNetOutputOption = Annotated[
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


def train_syncnet(
    data: DataOption = Path("data"),
    output: SyncNetOutputOption = Path("runs/syncnet"),
    recipe: RecipeOption = "syncnet",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    decoded_cache: DecodedOption = "auto",
    decoder: DecoderOption = "auto",
    stop_after_s: StopOption = None,
    tracker: TrackerOption = None,
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
        trackers=trackers_of(tracker),
        dry_run=dry_run,
    )
    _train(run, job, chosen, as_json=as_json, quiet=quiet)


def train_unet(
    data: DataOption = Path("data"),
    output: UNetOutputOption = None,
    recipe: RecipeOption = "stage2",
    settings: SetOption = None,
    start: StartOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    decoded_cache: DecodedOption = "auto",
    decoder: DecoderOption = "auto",
    stop_after_s: StopOption = None,
    tracker: TrackerOption = None,
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
        trackers=trackers_of(tracker),
        dry_run=dry_run,
    )
    _train(run, job, chosen, as_json=as_json, quiet=quiet)


def trackers_of(names: list[str] | None) -> tuple[str, ...]:
    """The trackers that the flags name; "none" stands for no tracker.

    >>> trackers_of(None), trackers_of(["none"]), trackers_of(["wandb", "tensorboard"])
    (('tensorboard',), (), ('wandb', 'tensorboard'))
    """
    return tuple(name for name in names or ["tensorboard"] if name != "none")


def name_of_run(recipe: str) -> str:
    """The folder under runs/ that a recipe's run goes to.

    >>> name_of_run("stage2.toml"), name_of_run("compact/stage1"), name_of_run("/home/me/mine.toml")
    ('stage2', 'compact-stage1', 'mine')
    """
    path = Path(recipe)
    if path.is_absolute() or path.parts[0] in (".", "..", "recipes"):
        return path.stem
    return "-".join(path.with_suffix("" if path.suffix == ".toml" else path.suffix).parts)


def _train(
    run: Callable[[TrainingJob, AnyRecipe, Report], TrainingResult],
    job: TrainingJob,
    recipe: AnyRecipe,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train, show what came of it, from the main process only, and end as one that a signal stopped."""
    result = run(job, recipe, console.make_report(quiet))
    if result.is_main:
        _show(result, recipe, as_json=as_json, quiet=quiet)
    if result.reason == "signal":
        raise SystemExit(console.INTERRUPTED)


def _show(result: TrainingResult, recipe: TrainingRecipe, *, as_json: bool, quiet: bool) -> None:
    if result.weights is None:
        from latentsync.recipe.loading import dump_recipe

        console.show(result.as_dict(), as_json=as_json, text=dump_recipe(recipe).splitlines())
        return
    stopped = "" if result.reason == "finished" else "; stopped early, run the same command to resume"
    words = [f"{result.samples} samples in {result.took_s:.0f} s{stopped}; weights:"]
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=[result.weights])
