"""`latentsync preprocess`: raw videos to aligned, synchronised, filtered clips and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import (
    AddressOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
    JsonOption,
    LimitOption,
    QuietOption,
    RecipeOption,
    SetOption,
)

if TYPE_CHECKING:
    from latentsync.preprocess.run import PreprocessResult


RawArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RAW", help="A folder of videos, a list of paths (*.txt), or one video."),
]
OutArgument = Annotated[
    Path | None, typer.Argument(metavar="OUT", help="Folder for clips, logs and the manifest.")
]
SummaryOption = Annotated[
    Path | None,
    typer.Option("--summary", metavar="OUT", help="Only count and plot the outcomes in OUT."),
]
LayoutOption = Annotated[
    Literal["folder", "voxceleb2", "hdtf"],
    typer.Option(
        help="How RAW is arranged: a folder of videos; VoxCeleb2 with its folders mp4/ and aac/; or whole "
        "videos with HDTF's lists of clips."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many videos at a time.", show_default="one per core"),
]
ShardOption = Annotated[
    str, typer.Option(metavar="I/N", help="Only part I of N, counted from 1: for job arrays.")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Try failed sources again.")]


def preprocess(
    raw: RawArgument = None,
    out: OutArgument = None,
    summary: SummaryOption = None,
    recipe: RecipeOption = "preprocess",
    settings: SetOption = None,
    layout: LayoutOption = "folder",
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    shard: ShardOption = "1/1",
    device: DeviceOption = "auto",
    limit: LimitOption = 1800.0,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make training clips from the videos in RAW. Run the same command again to resume."""
    if summary is not None:
        if raw is not None:
            raise UsageError(f"--summary and '{raw}': only one of them", hint="omit RAW and OUT")
        _summarize(summary, as_json=as_json, quiet=quiet)
        return
    if raw is None or out is None:
        raise UsageError(
            "RAW and OUT are needed", hint="write for example: latentsync preprocess raw/ processed/"
        )
    if address is not None and engine != "ray":
        raise UsageError(f"--address {address}: the local engine takes no address", hint="add --engine ray")
    from latentsync.preprocess.run import PreprocessJob, run
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.preprocess import PreprocessRecipe
    from latentsync.workers.log import parse_shard

    job = PreprocessJob(
        raw=raw,
        out=out,
        layout=layout,
        engine=engine,
        address=address,
        workers=workers,
        shard=parse_shard(shard),
        device=device,
        limit_s=limit,
        retry_failed=retry_failed,
        dry_run=dry_run,
    )
    chosen = load_recipe(recipe, PreprocessRecipe, overrides=settings or [])
    _show(run(job, chosen, console.make_report(quiet)), as_json=as_json, quiet=quiet)


def _summarize(out: Path, *, as_json: bool, quiet: bool) -> None:
    from latentsync.preprocess.run import summarize

    funnel, pictures = summarize(out, console.make_report(quiet))
    console.show(
        {**funnel.as_dict(), "pictures": [str(path) for path in pictures]},
        as_json=as_json,
        text=funnel.lines(),
        paths=pictures,
    )


def _show(result: PreprocessResult, *, as_json: bool, quiet: bool) -> None:
    words = [] if result.funnel is None else [*result.funnel.lines(), _took(result)]
    paths = [] if result.manifest is None else [result.manifest]
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=paths)


def _took(result: PreprocessResult) -> str:
    return f"{result.done} videos in {result.took_s:.1f} s"
