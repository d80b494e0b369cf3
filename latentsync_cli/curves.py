"""`latentsync curves`: the course of trainings beside each other, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import JsonOption

RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN…",
        help="Output folders of trainings; NAME=FOLDER gives one another name.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="The picture: .png, .svg or .pdf.")
]
MeasureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="NAME",
        help="What to draw, such as bce, balanced_accuracy, confidence; may be given several times.",
        show_default="the first loss and accuracy that the runs have",
    ),
]
AgainstOption = Annotated[
    Literal["samples", "steps"], typer.Option(help="What the axis counts: samples, or optimizer steps.")
]


def curves(
    runs: RunsArgument,
    output: OutputOption = Path("curves.png"),
    measure: MeasureOption = None,
    against: AgainstOption = "steps",
    as_json: JsonOption = False,
) -> None:
    """Draw the course of trainings beside each other, as the paper's figures do."""
    from latentsync.train.curves import choose_measures, draw_runs, last_values, read_runs

    logs = read_runs(_named(runs))
    measures = choose_measures(logs, measure or [])
    draw_runs(logs, output, measures=measures, against=against)
    last = last_values(logs, measures)
    if not as_json:
        rows = [
            [name, *(f"{values[one]:.4g}" if one in values else "" for one in measures)]
            for name, values in last.items()
        ]
        console.table("", rows, columns=["last value", *measures])
    console.show({"picture": str(output), "last": last}, as_json=as_json, paths=[output])


def _named(runs: list[str]) -> dict[str, Path]:
    """Folders by name: that given before an equals sign, or the folder's own."""
    named: dict[str, Path] = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        path = Path(folder if equals and not Path(run).exists() else run)
        name = name if equals and not Path(run).exists() else path.name
        if name in named:
            raise UsageError(f"'{name}': two runs have this name", hint=f"write for example other={path}")
        named[name] = path
    return named
