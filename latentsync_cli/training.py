"""What the training commands share: their flags, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from latentsync_cli import console

if TYPE_CHECKING:
    from latentsync.recipe.schema import Recipe
    from latentsync.train.setup import TrainingResult

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
StopOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Save and stop after this many seconds of training."),
]


def end_training(result: TrainingResult, recipe: Recipe, *, as_json: bool, quiet: bool) -> None:
    """Show what came of a training, from the main process only, and end as one that a signal stopped."""
    if result.is_main:
        _show(result, recipe, as_json=as_json, quiet=quiet)
    if result.reason == "signal":
        raise SystemExit(console.INTERRUPTED)


def _show(result: TrainingResult, recipe: Recipe, *, as_json: bool, quiet: bool) -> None:
    if result.weights is None:
        from latentsync.recipe.loading import dump_recipe

        console.show(result.as_dict(), as_json=as_json, text=dump_recipe(recipe).splitlines())
        return
    stopped = "" if result.reason == "finished" else "; stopped early, run the same command to resume"
    words = [f"{result.samples} samples in {result.took_s:.0f} s{stopped}; weights:"]
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=[result.weights])
