"""What an evaluation found, and how it is shown: rows of tables, a CSV with every clip, JSON, and a page."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.errors import MediaError, UsageError
from latentsync.evaluate.pictures import choose_shown, data_uri, play_beside, stack_methods
from latentsync.evaluate.score import REAL, Cache, ClipScores
from latentsync.evaluate.totals import NO_CLIP, Cell, Column, MethodRow, Totals
from latentsync.files import whole_or_nothing
from latentsync.recipe.evaluate import PaperRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Facts = tuple[tuple[str, str], ...]  # label and text each
DIFFERENT = "methods were scored on different clips: their means do not compare, and none is marked as best"
CSV_COLUMNS = ("setting", "clip", "method", "number", "value", "reason", "used_s", "notes")
BEST, TAUGHT = "*", "!"
TAUGHT_BY = "the model was trained with this network: its score says little"
_DASH = "–"
_TEMPLATES = Path(__file__).parent
_SYNC_NUMBERS = (("sync_conf", "sync_offset"), ("sync_conf_compact", "sync_offset_compact"))
_WORST_BY = ("sync_conf", "sync_conf_compact", "ssim")  # the first that was measured
_WORST_CLIPS = 4
_LISTED = 200  # excluded clips on the page; the CSV has them all
_COLOURS = ("#777777", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
_DRAWN_POINTS = 400  # more are drawn as pixels, so that the page stays small
_PX = 1 / 96  # inches


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """All that the table, the CSV and the page show.

    facts        how it was measured
    circumstances  of this run: date, command, versions, device
    definitions  what each metric measures, by name
    taught       by method, the metrics whose network its model was trained with
    videos       the video of each setting, clip and method; under `REAL` the input
    speakers     by setting and clip, the name of the clip whose video the speech is from
    shown        clips that the page shows by all methods; empty: the first of each setting
    paper, paper_settings, paper_source  as in the recipe of the set; empty if the set is not a paper's
    """

    title: str
    facts: Facts
    totals: Totals
    scores: tuple[ClipScores, ...]
    circumstances: Facts = field(default=(), compare=False)
    definitions: Mapping[str, str] = field(default_factory=dict)
    taught: Mapping[str, frozenset[str]] = field(default_factory=dict)
    videos: Mapping[tuple[str, str, str], Path] = field(default_factory=dict)
    speakers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    paper: tuple[PaperRow, ...] = ()
    paper_settings: dict[str, tuple[str, ...]] | None = None
    paper_source: str = ""

    @property
    def settings(self) -> list[str]:
        """The settings that were measured, in order."""
        return list(dict.fromkeys(row.setting for row in self.totals.rows))

    def rows(self, setting: str) -> list[MethodRow]:
        """The methods in one setting, the real videos first."""
        return [row for row in self.totals.rows if row.setting == setting]

    def columns(self, setting: str) -> list[Column]:
        """The numbers that at least one method has in this setting, or that only the paper has."""
        rows = self.rows(setting)
        shown = [
            column
            for column in self.totals.columns
            if any(row.cells.get(column.name, Cell()).value is not None for row in rows)
        ]
        unavailable = {one.name for one in self.totals.unavailable}
        stated = dict.fromkeys(name for _, values in self._all_stated(setting) for name in values)
        return shown + [Column(name, "", "", name, True) for name in stated if name in unavailable]

    def absent(self, setting: str) -> dict[str, list[str]]:
        """Why other numbers are absent: the reason, and the names of the numbers."""
        shown, rows = self.columns(setting), self.rows(setting)
        # Real videos lack most numbers by nature: the reasons of the methods tell more.
        rows = [row for row in rows if row.method != REAL] or rows
        found: dict[str, list[str]] = {}
        for column in self.totals.columns:
            if column not in shown:
                cells = [row.cells[column.name] for row in rows if column.name in row.cells]
                reasons = [cell.missing for cell in cells if cell.missing]
                reasons = [reason for reason in reasons if reason != NO_CLIP] or reasons
                reason = reasons[-1] if reasons else "only for generated videos"
                found.setdefault(reason, []).append(column.name)
        return found

    def stated(self, setting: str) -> list[tuple[str, dict[str, float]]]:
        """What the paper states for this setting: its methods, with the numbers that are shown."""
        names = {column.name for column in self.columns(setting)}
        shown = [
            (method, {name: value for name, value in values.items() if name in names})
            for method, values in self._all_stated(setting)
        ]
        return [(method, values) for method, values in shown if values]

    def _all_stated(self, setting: str) -> list[tuple[str, dict[str, float]]]:
        settings = self.paper_settings or {}
        return [
            (
                row.method,
                {
                    name: value
                    for name, value in row.values.items()
                    if setting in settings.get(name, (setting,))
                },
            )
            for row in self.paper
        ]

    def caveat(self, setting: str) -> str:
        """What to know before comparing the methods' means; empty if all were scored on the same clips."""
        used: dict[str, set[str]] = {}
        for one in self.scores:
            if one.setting == setting and one.method != REAL:
                used.setdefault(one.method, set()).update([] if one.reason else [one.clip])
        some = [clips for clips in used.values() if clips]
        return DIFFERENT if any(clips != some[0] for clips in some) else ""

    def is_taught(self, method: str, column: Column) -> bool:
        """Whether the method's model was trained with the network behind this number."""
        return column.metric in self.taught.get(method, ())

    def best(self, setting: str, column: Column) -> frozenset[str]:
        """The methods with the best mean of a number; none if means do not compare or are all alike.

        A model that was trained with the network that judges it is never the best.
        """
        means = {
            row.method: value
            for row in self.rows(setting)
            if (value := row.cells.get(column.name, Cell()).value) is not None
            and not self.is_taught(row.method, column)
        }
        real = means.pop(REAL, None)
        if column.better == "higher":
            faults = {method: -mean for method, mean in means.items()}
        elif column.better == "lower":
            faults = means
        elif column.better == "real" and real is not None:
            faults = {method: abs(mean - real) for method, mean in means.items()}
        else:
            return frozenset()
        # Equal means share the mark; if all are equal, it would say nothing.
        least = [method for method, fault in faults.items() if fault == min(faults.values())]
        is_fair = len(least) < len(means) and not self.caveat(setting)
        return frozenset(least if is_fair else ())

    def excluded(self) -> list[ClipScores]:
        """The clips without scores."""
        return [one for one in self.scores if one.reason]

    def notes(self) -> Counter[str]:
        """How often each thing was done to match a video; numbers in the notes are left out."""
        kinds: Counter[str] = Counter()
        for one in self.scores:
            for note in one.notes:
                kinds[f"{one.method}: {_kind(note)}"] += 1
        return kinds


def _kind(note: str) -> str:
    # Sizes and times differ from clip to clip; what is counted is what was done.
    if " px, the input " in note:
        return "another size than the input: cut around its own face"
    return "compared in part" if " s compared" in note else note


def as_dict(report: EvaluationReport) -> dict[str, object]:
    """The totals in values that JSON can hold."""
    return {
        "title": report.title,
        "facts": dict(report.facts),
        "run": dict(report.circumstances),
        "settings": {
            setting: {
                "methods": [_row_dict(row) for row in report.rows(setting)],
                "paper": [{"method": method, "values": values} for method, values in report.stated(setting)],
                "not_measured": report.absent(setting),
                "caveat": report.caveat(setting),
            }
            for setting in report.settings
        },
        "numbers": {
            column.name: {"unit": column.unit, "better": column.better, "metric": column.metric}
            for column in report.totals.columns
        },
        "not_available": {one.name: one.reason for one in report.totals.unavailable},
        "taught": {method: sorted(names) for method, names in report.taught.items() if names},
        "paper_source": report.paper_source,
        "matched": dict(sorted(report.notes().items())),
    }


def _row_dict(row: MethodRow) -> dict[str, object]:
    return {
        "method": row.method,
        "clips": row.clips,
        "used": row.used,
        "excluded": row.excluded,
        "values": {
            name: {"mean": cell.value, "low": cell.low, "high": cell.high, "clips": cell.clips}
            if cell.value is not None
            else {"missing": cell.missing}
            for name, cell in row.cells.items()
        },
    }


@dataclass(frozen=True, slots=True)
class TextTable:
    """The table of one setting for a terminal, numbers down and methods across; `remarks` go below it."""

    columns: list[str]
    rows: list[list[str]]
    remarks: list[str]


def text_table(report: EvaluationReport, setting: str) -> TextTable:
    """Rows of text, with the best method of each number marked."""
    rows, stated = report.rows(setting), report.stated(setting)
    columns = [setting, *(row.method for row in rows), *(f"{method} (paper)" for method, _ in stated)]
    table = [["clips used", *(f"{row.used} of {row.clips}" for row in rows), *("" for _ in stated)]]
    marks = set()
    for column in report.columns(setting):
        measured = []
        for row in rows:
            cell, mark = row.cells.get(column.name, Cell()), _mark(report, row, column)
            measured.append(cell_text(cell, mark))
            marks.add(mark)
        table.append([label(column), *measured, *(_stated_text(values, column) for _, values in stated)])
    remarks = [f"{BEST} best mean of the methods"] if BEST in marks else []
    remarks += [f"{TAUGHT} {TAUGHT_BY}"] if TAUGHT in marks else []
    absent = report.absent(setting)
    remarks += [f"not measured: {', '.join(names)} ({reason})" for reason, names in absent.items()]
    for row in rows:
        if row.excluded:
            counts = ", ".join(f"{reason} {count}" for reason, count in row.excluded.items())
            remarks.append(f"{row.method}: {row.clips - row.used} of {row.clips} clips excluded: {counts}")
    if report.caveat(setting):
        remarks.append(report.caveat(setting))
    return TextTable(columns, table, remarks)


def _mark(report: EvaluationReport, row: MethodRow, column: Column) -> str:
    if row.method in report.best(row.setting, column):
        return BEST
    has_value = row.cells.get(column.name, Cell()).value is not None
    return TAUGHT if has_value and report.is_taught(row.method, column) else ""


def closing_remarks(report: EvaluationReport) -> list[str]:
    """What to know about all settings: where the paper's numbers are from, and what is not available."""
    has_paper = any(report.stated(setting) for setting in report.settings)
    remarks = [f"(paper): stated in {report.paper_source}"] if has_paper else []
    return remarks + [f"{one.name}: {one.reason}" for one in report.totals.unavailable]


def label(column: Column) -> str:
    """The name of a number with its unit and which way is better."""
    return " ".join(part for part in (column.name, column.unit and f"({column.unit})", column.arrow) if part)


def cell_text(cell: Cell, mark: str = "") -> str:
    """A number with its mark, its interval and the count of clips behind it."""
    if cell.value is None:
        return _DASH
    return " ".join(part for part in (number(cell.value) + mark, interval(cell), f"n={cell.clips}") if part)


def _stated_text(values: Mapping[str, float], column: Column) -> str:
    return number(values[column.name]) if column.name in values else ""


def interval(cell: Cell) -> str:
    """The interval of a number; empty if it has none."""
    return "" if cell.low is None or cell.high is None else f"[{number(cell.low)}, {number(cell.high)}]"


def number(value: float) -> str:
    """Four digits.

    >>> number(0.79123), number(192.74), number(12345.6)
    ('0.7912', '192.7', '12346')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def make_folder(output: Path) -> None:
    """Create the folder of the report.

    Raises:
        UsageError: it is a file.
        MediaError: it cannot be created.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"'{output}': is a file", hint="name a folder with -o")
    with explained(output):
        output.mkdir(parents=True, exist_ok=True)


@contextmanager
def explained(output: Path) -> Iterator[None]:
    """Turn errors of the system into one that names the output."""
    try:
        yield
    except OSError as error:
        raise MediaError(
            f"'{output}': cannot be written ({error.strerror})", hint="name another folder with -o"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; bytes of names that are not UTF-8 become question marks."""
    with whole_or_nothing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))


def write_csv(report: EvaluationReport, path: Path) -> None:
    """Write one line for every clip, method and number; if there is no value, the reason.

    Numbers of whole sets, such as FID, have no clip and are left out.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in report.scores:
        for column in report.totals.columns:
            if not column.is_of_set:
                writer.writerow(_csv_row(one, column))
    write_text(path, lines.getvalue())


def _csv_row(one: ClipScores, column: Column) -> list[str]:
    value = one.values.get(column.name)
    reason = ""
    if one.reason:
        reason = f"{one.reason}: {one.detail}".rstrip(": ")
    elif value is None:
        reason = one.missing.get(column.metric, "not measured")
    return [
        one.setting,
        one.clip,
        one.method,
        column.name,
        "" if value is None else repr(value),
        reason,
        f"{one.used_s:.2f}",
        "; ".join(one.notes),
    ]


def write_page(report: EvaluationReport, cache: Cache) -> str:
    """The page as text, which holds everything itself. Pictures of the worst clips come from `cache`."""
    return render(
        "report.html.j2",
        title=report.title,
        circumstances=report.circumstances,
        facts=report.facts,
        settings=[_setting_context(report, setting, cache) for setting in report.settings],
        definitions=report.definitions,
        notes=sorted(report.notes().items()),
        excluded=report.excluded()[:_LISTED],
        excluded_count=len(report.excluded()),
        unavailable=report.totals.unavailable,
        paper_source=report.paper_source,
    )


def render(template: str, **context: Any) -> str:
    """Fill a template of this folder; everything is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)


def _setting_context(report: EvaluationReport, setting: str, cache: Cache) -> dict[str, Any]:
    rows, stated = report.rows(setting), report.stated(setting)
    columns = report.columns(setting)
    scores = [one for one in report.scores if one.setting == setting and not one.reason]
    table: list[dict[str, Any]] = []
    for column in (column for column in columns if column in report.totals.columns):
        cells = [row.cells.get(column.name, Cell()) for row in rows]
        measured = [
            {
                "text": _DASH if cell.value is None else number(cell.value),
                "interval": interval(cell),
                "clips": cell.clips,
                "mark": _mark(report, row, column),
            }
            for row, cell in zip(rows, cells, strict=True)
        ]
        table.append({"label": label(column), "cells": measured})
    in_paper = [column for column in columns if any(column.name in values for _, values in stated)]
    return {
        "name": setting,
        "rows": rows,
        "stated_numbers": [label(column) for column in in_paper],
        "stated": [
            (method, [_stated_text(values, column) for column in in_paper]) for method, values in stated
        ],
        "table": table,
        "caveat": report.caveat(setting),
        "has_taught": any(cell["mark"] == TAUGHT for line in table for cell in line["cells"]),
        "absent": report.absent(setting),
        "plots": [_draw_clips(column, rows, scores) for column in columns if _has_values(column, scores)],
        "sync_plots": [
            (confidence, _draw_sync(confidence, offset, rows, judged))
            for confidence, offset in _SYNC_NUMBERS
            if (judged := [one for one in scores if {confidence, offset} <= one.values.keys()])
        ],
        "worst": [sheet for row in rows if (sheet := _worst(report, row, scores, cache))],
        "compared": list(_compared(report, setting, cache)),
    }


def _has_values(column: Column, scores: Sequence[ClipScores]) -> bool:
    return any(column.name in one.values for one in scores)


def _compared(report: EvaluationReport, setting: str, cache: Cache) -> Iterator[dict[str, str]]:
    """The same frames of some clips by all methods, under one another."""
    scored = [one for one in report.scores if one.setting == setting and one.picture]
    for clip in choose_shown(list(dict.fromkeys(one.clip for one in scored)), report.shown):
        strips = {
            one.method: jpeg
            for one in scored
            if one.clip == clip and (jpeg := cache.read_picture(one.picture)) is not None
        }
        speaker = report.speakers.get((setting, clip))
        of_speaker = (one for one in report.scores if one.clip == speaker and one.method == REAL)
        target = next((jpeg for one in of_speaker if (jpeg := cache.read_picture(one.picture))), None)
        stacked = stack_methods(target, strips)
        if stacked is not None:
            names, jpeg = stacked
            caption = f"{clip}, from top to bottom: {', '.join(names)}"
            yield {"source": data_uri(jpeg, "image/jpeg"), "caption": caption}


def _worst(
    report: EvaluationReport, row: MethodRow, scores: Sequence[ClipScores], cache: Cache
) -> dict[str, Any] | None:
    """Strips of the clips with the lowest scores of a method, and the clips; None for the real videos."""
    own = [one for one in scores if one.method == row.method]
    by = next((name for name in _WORST_BY if any(name in one.values for one in own)), None)
    if by is None or row.method == REAL:
        return None
    ranked = sorted((one for one in own if by in one.values), key=lambda one: (one.values[by], one.clip))
    strips = [
        {
            "source": data_uri(jpeg, "image/jpeg"),
            "caption": f"{one.clip}: {by} {number(one.values[by])}",
            "video": _playable(report, one),
        }
        for one in ranked[:_WORST_CLIPS]
        if (jpeg := cache.read_picture(one.picture)) is not None
    ]
    return {"method": row.method, "by": by, "strips": strips} if strips else None


def _playable(report: EvaluationReport, one: ClipScores) -> str:
    """A clip beside its input as `src` of a <video>; empty if there is none."""
    made, source = (report.videos.get((one.setting, one.clip, name)) for name in (one.method, REAL))
    content = play_beside(source, made) if source is not None and made is not None else None
    return "" if content is None else data_uri(content, "video/mp4")


def _draw_clips(column: Column, rows: Sequence[MethodRow], scores: Sequence[ClipScores]) -> dict[str, str]:
    """A column of points for each method, with its mean and interval; every point is a clip."""
    figure, (axes,) = panels(max(240, 80 + 70 * len(rows)), 240)
    total = sum(column.name in one.values for one in scores)
    for index, row in enumerate(rows):
        values = [
            one.values[column.name]
            for one in scores
            if one.method == row.method and column.name in one.values
        ]
        spread = 0.6 / max(1, len(values) - 1)
        positions = [index - 0.3 + spread * rank for rank in range(len(values))]
        _scatter(axes, positions, values, colour=index, is_pixels=total > _DRAWN_POINTS)
        cell = row.cells.get(column.name, Cell())
        if cell.value is not None:
            axes.hlines(cell.value, index - 0.35, index + 0.35, colors="black", linewidths=1.5)
        if cell.low is not None and cell.high is not None:
            axes.vlines(index, cell.low, cell.high, colors="black", linewidths=1.5)
    axes.set(title=label(column), xlim=(-0.5, len(rows) - 0.5))
    names = [row.method for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=9)
    if max(map(len, names)) > 9:
        for text in axes.get_xticklabels():
            text.set(rotation=20, horizontalalignment="right")
    return picture_of(figure, f"{column.name} of every clip, by method")


def _draw_sync(
    confidence: str, offset: str, rows: Sequence[MethodRow], judged: Sequence[ClipScores]
) -> dict[str, str]:
    """Confidence over offset by one judge: a panel for each method."""
    widest = max(5.0, *(abs(one.values[offset]) for one in judged)) + 0.5
    figure, all_axes = panels(60 + 210 * len(rows), 240, count=len(rows))
    for index, (axes, row) in enumerate(zip(all_axes, rows, strict=True)):
        own = [one.values for one in judged if one.method == row.method]
        offsets, confidences = ([values[name] for values in own] for name in (offset, confidence))
        _scatter(axes, offsets, confidences, colour=index, is_pixels=len(judged) > _DRAWN_POINTS)
        axes.set(title=row.method, xlabel="offset in frames", xlim=(-widest, widest))
    all_axes[0].set_ylabel(confidence)
    return picture_of(figure, f"{confidence} over {offset}, by method")


def _scatter(axes: Axes, x: Sequence[float], y: Sequence[float], *, colour: int, is_pixels: bool) -> None:
    colours = _COLOURS[colour % len(_COLOURS)]
    axes.scatter(x, y, s=20, c=colours, alpha=0.65, linewidths=0, rasterized=is_pixels)


def panels(width_px: int, height_px: int, *, count: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side that share their axes."""
    from matplotlib.figure import Figure  # no pyplot: it keeps figures and looks for a display

    figure = Figure(figsize=(width_px * _PX, height_px * _PX))
    # Fixed margins: a layout engine would draw every figure twice.
    figure.subplots_adjust(66 / width_px, 62 / height_px, 1 - 14 / width_px, 1 - 26 / height_px, wspace=0.08)
    all_axes = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#cccccc", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(y=0.1)
    return figure, all_axes


def picture_of(figure: Figure, described: str) -> dict[str, str]:
    """A figure as `source` of an <img>, which keeps its styles and names apart from the page's."""
    import matplotlib

    content = io.BytesIO()
    # Text stays text, so that it is drawn in the reader's font and takes little room.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "latentsync"}):
        figure.savefig(content, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    return {"source": data_uri(content.getvalue(), "image/svg+xml"), "described": described}
