"""The course of several training runs in one picture: one panel for each measure, one line for each run.

    python benchmarks/curves.py NAME=RUN_DIR... --measure contrastive balanced_accuracy --out FILE.png

RUN_DIR is the output of `latentsync train-syncnet` or `train-unet`. A measure is taken from the validations,
or from the training log where they lack it. --against steps: the axis counts optimizer steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from latentsync.train.log import Row, read_log

CHANCE = 0.5


def points_of(rows: list[Row], measure: str, against: str) -> list[tuple[float, float]]:
    """The course of a measure."""
    tables = ("validation", "losses")
    table = next((name for name in tables if any(measure in row.get(name, {}) for row in rows)), "losses")
    return [(row[against], row[table][measure]) for row in rows if measure in row.get(table, {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_DIR")
    parser.add_argument("--measure", nargs="+", default=["balanced_accuracy"])
    parser.add_argument("--against", choices=["samples", "steps"], default="samples")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    logs = {name: read_log(Path(folder)) for name, _, folder in (run.partition("=") for run in given.runs)}
    empty = [name for name, rows in logs.items() if not rows]
    if empty:
        parser.error(f"no log in the folders of {', '.join(empty)}")
    figure = Figure(figsize=(4.6 * len(given.measure), 3.4), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(given.measure), squeeze=False)[0]
    for axes, measure in zip(panels, given.measure, strict=True):
        for name, rows in logs.items():
            points = points_of(rows, measure, given.against)
            if points:
                axes.plot(*zip(*points, strict=True), "o-", label=name, markersize=3, linewidth=1)
        if "accuracy" in measure:
            axes.axhline(CHANCE, color="#888888", linestyle="--", linewidth=1)
        axes.set(title=measure.replace("_", " "), xlabel=given.against)
        axes.legend(fontsize=7)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out)


if __name__ == "__main__":
    main()
