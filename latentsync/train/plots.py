"""Pictures of a run: how the loss fell, what the network says of pairs, how well it tells shifts apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.train.log import Row
from latentsync.train.syncnet.plateau import COIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG, GREY = "#1b7f5c", "#c2452d", "#888888"
ACCURACIES = ("accuracy", "balanced_accuracy", "offset_accuracy")


def draw_learning(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Both loss curves above, accuracies below, against samples.

    Source: the paper's figures of SyncNet training; the grey line is the loss of a coin.
    """
    figure = _figure(8, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    for table, style in (("losses", "-"), ("validation", "o-")):
        found = [row for row in rows if table in row]
        names = sorted({name for row in found for name in row[table]} - {*ACCURACIES, "chance", "accuracy"})
        for name in names:
            points = [(row["samples"], row[table][name]) for row in found if name in row[table]]
            label = f"{'validation' if table == 'validation' else 'training'} {name}"
            above.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    above.axhline(COIN, color=GREY, linestyle="--", linewidth=1, label="chance (0.693)")
    for table, name in (("losses", "accuracy"), *(("validation", name) for name in ACCURACIES)):
        points = [(row["samples"], row[table][name]) for row in rows if name in row.get(table, {})]
        if points:
            label = f"{'validation' if table == 'validation' else 'training'} {name.replace('_', ' ')}"
            below.plot(*zip(*points, strict=True), "o-", label=label, markersize=3, linewidth=1)
    below.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    above.set(ylabel="loss", title=title)
    below.set(xlabel="samples", ylabel="accuracy", ylim=(0, 1.02))
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    _save(figure, path)


def draw_panels(rows: Sequence[Row], path: Path) -> None:
    """A panel for each measure in the log, with its course in training and in validation, against samples.

    Source: the official U-Net training draws Sync_conf after each checkpoint; here it is called confidence.
    """
    tables = {"losses": ("training", "-"), "validation": ("validation", "o-")}
    names = sorted({name for row in rows for table in tables for name in row.get(table, {})})
    columns = min(3, max(1, len(names)))
    figure = _figure(4 * columns, 2.6 * -(-len(names) // columns))
    panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True).flat
    for axes, name in zip(panels, names, strict=False):
        for table, (label, style) in tables.items():
            points = [(row["samples"], row[table][name]) for row in rows if name in row.get(table, {})]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
        axes.set(title=name)
        axes.legend(fontsize=7)
    _save(figure, path)


def draw_probabilities(pairs: Sequence[tuple[float, float]], path: Path, *, title: str) -> None:
    """The probability that the network gives each pair: right above wrong if it has learnt.

    Args:
        pairs: probability, and label 1 or 0.

    Source: the paper's figure 12.
    """
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for label, name, colour in ((1.0, "belong together", RIGHT), (0.0, "do not", WRONG)):
        points = [(number, value) for number, (value, said) in enumerate(pairs) if said == label]
        if points:
            numbers, values = zip(*points, strict=True)
            axes.scatter(numbers, values, s=6, color=colour, label=name, alpha=0.6)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="pair", ylabel="predicted probability", ylim=(-0.02, 1.02), title=title)
    if pairs:
        axes.legend(fontsize=8)
    _save(figure, path)


def draw_shifts(cosines: dict[int, float], path: Path, *, title: str) -> None:
    """Mean cosine of frames with speech that was shifted by so many frames: a narrow peak at 0 is wanted."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    shifts = sorted(cosines)
    axes.plot(shifts, [cosines[shift] for shift in shifts], "o-", color=RIGHT, markersize=4)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="shift of the speech in frames", ylabel="mean cosine", title=title)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import (
        Figure,
    )  # no pyplot: nothing is kept between pictures, no display is looked for

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png")
    os.replace(part, path)
