"""The course of several runs in one picture, as in the paper's figures of SyncNet training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from latentsync.errors import MediaError, UsageError
from latentsync.files import whole_or_nothing
from latentsync.train.log import Row, new_figure, read_log

Against = Literal["samples", "steps"]
Table = Literal["losses", "validation"]
CHANCE_LOSS, CHANCE = 0.6931, 0.5  # of a SyncNet that answers every pair alike
GREY = "#888888"
PREFERRED = ("bce", "contrastive", "noise", "clean", "reconstruction", "loss", "accuracy", "confidence")
WIDTH, HEIGHT = 4.8, 3.4  # inches of a panel
Points = list[tuple[float, float]]


def read_runs(runs: Mapping[str, Path]) -> dict[str, list[Row]]:
    """The logs of runs, by name.

    Raises:
        MediaError: a folder has no log, or an empty one.
    """
    logs = {name: read_log(folder) for name, folder in runs.items()}
    for name, rows in logs.items():
        if not rows:
            raise MediaError(
                f"'{runs[name]}': there is no log.jsonl with a row in it",
                hint="name the output folders of latentsync train-syncnet or train-unet",
            )
    return logs


def choose_measures(logs: Mapping[str, Sequence[Row]], wanted: Sequence[str]) -> list[str]:
    """The measures to draw: those that are wanted, or the loss and the accuracy that the runs have.

    Raises:
        UsageError: no run has a measure that is wanted.
    """
    rows = [row for rows in logs.values() for row in rows]
    known = {name for row in rows for table in ("losses", "validation") for name in row.get(table, {})}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"--measure {name}: no run has logged it", hint=f"there are {', '.join(sorted(known))}"
            )
    return list(wanted) or [name for name in PREFERRED if name in known][:2] or sorted(known)[:1]


def course(rows: Sequence[Row], measure: str, table: Table, against: Against) -> Points:
    """A measure over the training: of the training itself ("losses") or of validations.

    >>> course([{"samples": 8, "steps": 2, "losses": {"bce": 0.7}}], "bce", "losses", "steps")
    [(2, 0.7)]
    """
    return [(row[against], row[table][measure]) for row in rows if measure in row.get(table, {})]


def draw_runs(
    logs: Mapping[str, Sequence[Row]], path: Path, *, measures: Sequence[str], against: Against
) -> None:
    """Draw a panel for each measure with a line for each run; validations as points, the training as a line.

    Args:
        path: its suffix decides the format: .png, .svg or .pdf.

    Raises:
        UsageError: the suffix is another one.

    Source: the paper, figures 6 to 9, 11 and 13: loss over training steps, a line for each setting.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"'{path}': is neither .png, .svg nor .pdf", hint="for example -o curves.png")
    figure = new_figure(WIDTH * len(measures), HEIGHT)
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for number, (name, rows) in enumerate(logs.items()):
            colour, label = f"C{number % 10}", name
            for table, style in (("losses", "-"), ("validation", "o--")):
                points = course(rows, measure, table, against)  # type: ignore[arg-type]
                if points:
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, style, color=colour, label=label, markersize=3, linewidth=1)
                    label = f"{name}, validation"
        for chance, is_drawn in ((CHANCE_LOSS, measure == "bce"), (CHANCE, "accuracy" in measure)):
            if is_drawn:
                axes.axhline(chance, color=GREY, linestyle=":", linewidth=1, label=f"chance ({chance:.3g})")
        axes.set(title=measure.replace("_", " "), xlabel="training " + against)
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        figure.savefig(part, format=kind)


def last_values(logs: Mapping[str, Sequence[Row]], measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """The last value of each measure by run: of the validations where they have it, else of the training."""
    found: dict[str, dict[str, float]] = {}
    for name, rows in logs.items():
        found[name] = {}
        for measure in measures:
            points = course(rows, measure, "validation", "steps") or course(rows, measure, "losses", "steps")
            if points:
                found[name][measure] = points[-1][1]
    return found
