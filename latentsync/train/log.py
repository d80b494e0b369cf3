"""The log of a run: `log.jsonl` with one JSON object per line, the same for its trackers, and its curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import BaseModel

from latentsync.files import open_regular, whole_or_nothing
from latentsync.recipe.loading import dump_recipe
from latentsync.train.trackers import Trackers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_NAME = "log.jsonl"

Row = dict[str, Any]


def read_log(output: Path) -> list[Row]:
    """The rows of a run's log, without a line that a kill cut short."""
    return _read(output)[0]


def _read(output: Path) -> tuple[list[Row], int]:
    """The rows of a log, and how many of its lines are damaged. The last one may just have been cut short."""
    try:
        with open_regular(output / LOG_NAME) as file:
            lines = file.read().decode("utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return [], 0
    rows: list[Row] = []
    damaged_lines = 0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and all(isinstance(row.get(key), int) for key in ("samples", "steps")):
            rows.append(row)
        else:
            damaged_lines += line.endswith("\n")
    return rows, damaged_lines


class TrainingLog:
    """Appends rows to `log.jsonl` and to the trackers; rows past the point of resuming are dropped.

    A row holds `samples`, `steps`, numbers such as `learning_rate`, and tables of numbers such as `losses` or
    `validation`. Only the main process writes; the others keep the rows in memory. `damaged_lines` of the old
    file were left out.
    """

    def __init__(
        self,
        output: Path,
        *,
        samples: int,
        is_main: bool,
        trackers: Sequence[str] = ("tensorboard",),
        recipe: BaseModel | None = None,
    ) -> None:
        rows, self.damaged_lines = _read(output)
        self.rows = [row for row in rows if row["samples"] <= samples]
        self.path = output / LOG_NAME
        self._file: TextIO | None = None
        self._trackers: Trackers | None = None
        if not is_main:
            return
        output.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(self.path) as part:
            part.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")
        self._trackers = Trackers(
            trackers,
            output,
            samples=samples,
            values={} if recipe is None else recipe.model_dump(mode="json"),
            text="" if recipe is None else dump_recipe(recipe),
        )

    def write(self, row: Row) -> None:
        """Add one row and flush it to the file."""
        self.rows.append(row)
        if self._file is None or self._trackers is None:
            return
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()
        numbers: dict[str, float] = {}
        for name, value in row.items():
            for key, number in (value if isinstance(value, dict) else {"": value}).items():
                if isinstance(number, int | float) and name != "samples":
                    numbers[f"{name}/{key}" if key else name] = number
        self._trackers.log(numbers, row["samples"])

    def show_files(self, samples: int) -> None:
        """Show what a validation wrote beside the log in the trackers."""
        if self._trackers is not None:
            self._trackers.show_files(self.path.parent, samples)

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._trackers):
            if file is not None:
                file.close()


def draw_panels(rows: Sequence[Row], path: Path) -> None:
    """A panel for each measure in the log, with its curve in training and in validation, against samples.

    Source: the official U-Net training draws Sync_conf after each checkpoint; here that is `confidence`.
    """
    tables = {"losses": ("training", "-"), "validation": ("validation", "o-")}
    names = sorted({name for row in rows for table in tables for name in row.get(table, {})})
    columns = min(3, max(1, len(names)))
    figure = new_figure(4 * columns, 2.6 * -(-len(names) // columns))
    panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True).flat
    for axes, name in zip(panels, names, strict=False):
        for table, (label, style) in tables.items():
            points = [(row["samples"], row[table][name]) for row in rows if name in row.get(table, {})]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
        axes.set(title=name)
        axes.legend(fontsize=7)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, without pyplot: it keeps no state and looks for no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        figure.savefig(part, format="png")
