"""`latentsync evaluate`: score lip-synced videos against the real ones, or measure a SyncNet."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import (
    AddressOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    LimitOption,
    ModelOption,
    QuietOption,
    RecipeOption,
)

if TYPE_CHECKING:
    from latentsync.evaluate.run import EvaluateResult, Method


UNFOLDED = 10_000  # columns: what reads a pipe wants one line for each number
Split = Literal["auto", "train", "validation", "all"]
TestSetOption = Annotated[
    str | None,
    typer.Option("--set", metavar="NAME|FILE", help="A test set: hdtf, voxceleb2, or a set's TOML file."),
]
PairsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="A CSV instead of --set: video,speech[,name][,speaker_video][,generated]."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the set's videos, of the paths in the CSV, or of processed clips for --syncnet.",
        show_default="./data/SET, or the CSV's folder",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME=DIR", help="A folder of finished videos; repeatable."),
]
GenerateOption = Annotated[
    bool,
    typer.Option("--generate", help="Run sync with --model on all pairs first; finished videos are kept."),
]
SyncRecipeOption = Annotated[str, typer.Option(metavar="NAME|PATH", help="The recipe for --generate.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the report: page, CSV and JSON.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option(metavar="A,B…", help="Only these metrics.", show_default="all that can be measured here"),
]
IdentityOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A TorchScript face network, for the metric `identity`.")
]
SyncNetOption = Annotated[
    Path | None,
    typer.Option(
        "--syncnet", metavar="FILE", help="Measure this SyncNet on the processed clips in --data instead."
    ),
]
SplitOption = Annotated[
    Split, typer.Option(help="Clips for --syncnet; auto: validation if there are any, else all.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many videos at a time.", show_default="one per core, or one on a GPU"),
]
CacheOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of cached scores.", show_default="the user's cache")
]


ShowOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLIP",
        help="Compare all methods on this clip on the page; repeatable.",
        show_default="the first of each setting",
    ),
]


def evaluate(
    test_set: TestSetOption = None,
    pairs: PairsOption = None,
    data: DataOption = None,
    method: MethodOption = None,
    generate: GenerateOption = False,
    model: ModelOption = None,
    sync_recipe: SyncRecipeOption = "sync",
    syncnet: SyncNetOption = None,
    split: SplitOption = "auto",
    output: OutputOption = Path("evaluation"),
    metrics: MetricsOption = None,
    show: ShowOption = None,
    identity_network: IdentityOption = None,
    recipe: RecipeOption = "evaluate",
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    limit: LimitOption = 1800.0,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score videos of any lip-sync method against the real ones. Run the same command again to resume."""
    if address is not None and engine != "ray":
        raise UsageError(f"--address {address}: the local engine takes no address", hint="add --engine ray")
    if syncnet is not None:
        if test_set is not None or pairs is not None or method or generate:
            raise UsageError(
                "--syncnet takes processed clips", hint="leave out --set, --pairs, --method and --generate"
            )
        _judge(syncnet, data, split, output, device, recipe, as_json=as_json, quiet=quiet)
        return
    from latentsync.evaluate.run import EvaluateJob, run
    from latentsync.recipe.evaluate import EvaluateRecipe
    from latentsync.recipe.loading import load_recipe

    job = EvaluateJob(
        test_set=test_set,
        pairs=pairs,
        data=data,
        methods=tuple(_method(text) for text in method or ()),
        output=output,
        generate=generate,
        model=model or "compact",
        sync_recipe=sync_recipe,
        metrics=tuple(name.strip() for name in metrics.split(",") if name.strip()) if metrics else None,
        identity_network=identity_network,
        device=device,
        engine=engine,
        address=address,
        workers=workers,
        limit_s=limit,
        cache=cache,
        show=tuple(show or ()),
        command=shlex.join(["latentsync", *sys.argv[1:]]),
    )
    chosen = load_recipe(recipe, EvaluateRecipe)
    _show(run(job, chosen, console.make_report(quiet)), as_json=as_json, quiet=quiet)


def _method(text: str) -> Method:
    from latentsync.evaluate.run import Method

    name, equals, folder = text.partition("=")
    if not equals or not name.strip() or not folder:
        raise UsageError(
            f"--method '{text}': not of the form NAME=DIR", hint="write for example --method Wav2Lip=videos/"
        )
    return Method(name.strip(), Path(folder).expanduser())


def _show(result: EvaluateResult, *, as_json: bool, quiet: bool) -> None:
    from latentsync.evaluate.report import closing_remarks, text_table

    if not as_json:
        for setting in result.report.settings:
            part = text_table(result.report, setting)
            console.table("", part.rows, columns=part.columns, pipe_columns=UNFOLDED)
            print("\n".join([*part.remarks, ""]))
    console.show(
        result.as_dict(),
        as_json=as_json,
        quiet=quiet,
        text=closing_remarks(result.report),
        words=[f"done in {result.took_s:.1f} s; written to:"],
        paths=[result.page, result.table, result.numbers],
    )


def _judge(
    checkpoint: Path,
    data: Path | None,
    split: Split,
    output: Path,
    device: str,
    recipe: str,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    if data is None:
        raise UsageError("--syncnet needs --data", hint="give the output folder of 'latentsync preprocess'")
    from latentsync.evaluate.syncnet import SyncNetJob, rows, run_syncnet
    from latentsync.recipe.evaluate import EvaluateRecipe
    from latentsync.recipe.loading import load_recipe

    job = SyncNetJob(checkpoint=checkpoint, data=data, split=split, output=output, device=device)
    result = run_syncnet(job, load_recipe(recipe, EvaluateRecipe), console.make_report(quiet))
    if not as_json:
        console.table("", rows(result.found))
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, paths=[result.page, result.numbers])
