"""What one evaluation found, ready to be shown: the numbers, the clips, and what a paper says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from latentsync.evaluate.score import REAL, ClipScores
from latentsync.evaluate.totals import NO_CLIP, Cell, Column, MethodRow, Totals
from latentsync.recipe.evaluate import PaperRow

DIFFERENT = "methods were scored on different clips: their means do not compare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that the table, the CSV and the page show.

    facts  how it was measured, label and text each
    paper, paper_settings, paper_source  as in the recipe of the set; empty where the set is nobody's
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    totals: Totals
    scores: tuple[ClipScores, ...]
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
        told = dict.fromkeys(name for _, values in self._told(setting) for name in values)
        return shown + [Column(name, "", "", name, True) for name in told if name in unavailable]

    def absent(self, setting: str) -> dict[str, list[str]]:
        """Why other numbers are not there: the reason, and the names of the numbers."""
        shown, rows = self.columns(setting), self.rows(setting)
        rows = [row for row in rows if row.method != REAL] or rows
        told: dict[str, list[str]] = {}
        for column in self.totals.columns:
            if column not in shown:
                cells = [row.cells[column.name] for row in rows if column.name in row.cells]
                reasons = [cell.missing for cell in cells if cell.missing]
                reasons = [reason for reason in reasons if reason != NO_CLIP] or reasons
                told.setdefault(reasons[-1] if reasons else "only for generated videos", []).append(
                    column.name
                )
        return told

    def stated(self, setting: str) -> list[tuple[str, dict[str, float]]]:
        """What the paper states for this setting: its methods, with the numbers that are shown."""
        names = {column.name for column in self.columns(setting)}
        told = [
            (method, {name: value for name, value in values.items() if name in names})
            for method, values in self._told(setting)
        ]
        return [(method, values) for method, values in told if values]

    def _told(self, setting: str) -> list[tuple[str, dict[str, float]]]:
        where = self.paper_settings or {}
        return [
            (
                row.method,
                {name: value for name, value in row.values.items() if setting in where.get(name, (setting,))},
            )
            for row in self.paper
        ]

    def caveat(self, setting: str) -> str:
        """What to know before comparing the methods' means; empty where all were scored on the same clips."""
        used: dict[str, set[str]] = {}
        for one in self.scores:
            if one.setting == setting and one.method != REAL:
                used.setdefault(one.method, set()).update([] if one.reason else [one.clip])
        some = [clips for clips in used.values() if clips]
        return DIFFERENT if any(clips != some[0] for clips in some) else ""

    def excluded(self) -> Iterator[ClipScores]:
        """The clips without scores."""
        return (one for one in self.scores if one.reason)

    def notes(self) -> Counter[str]:
        """How often each thing was done to match a video; numbers in the notes are left out."""
        kinds: Counter[str] = Counter()
        for one in self.scores:
            for note in one.notes:
                kinds[f"{one.method}: {_kind(note)}"] += 1
        return kinds


def _kind(note: str) -> str:
    if " px, the input " in note:
        return "another size than the input: cut around its own face"
    return "compared in part" if " s compared" in note else note


def as_dict(findings: Findings) -> dict[str, object]:
    """The totals in values that JSON can hold."""
    return {
        "title": findings.title,
        "facts": dict(findings.facts),
        "settings": {
            setting: {
                "methods": [_row_dict(row) for row in findings.rows(setting)],
                "paper": [
                    {"method": method, "values": values} for method, values in findings.stated(setting)
                ],
                "not_measured": findings.absent(setting),
                "caveat": findings.caveat(setting),
            }
            for setting in findings.settings
        },
        "numbers": {
            column.name: {"unit": column.unit, "better": column.better, "metric": column.metric}
            for column in findings.totals.columns
        },
        "not_available": {one.name: one.reason for one in findings.totals.unavailable},
        "paper_source": findings.paper_source,
        "matched": dict(sorted(findings.notes().items())),
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
