"""The means as a paper prints them: methods down, numbers across, in Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latentsync.evaluate.report import BEST, TAUGHT, TAUGHT_BY, EvaluationReport, number
from latentsync.evaluate.score import REAL
from latentsync.evaluate.totals import Cell, Column

ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "○": r"$\circ$"}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """One setting: `rows` of a method's name, texts and marks (`BEST`, `TAUGHT` or "")."""

    setting: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @property
    def has_taught(self) -> bool:
        return any(mark == TAUGHT for _, cells in self.rows for _, mark in cells)


def write_tables(report: EvaluationReport, kind: str) -> str:
    """All settings as one text.

    Args:
        kind: "md", "csv" or "tex".
    """
    tables = [_printed(report, setting) for setting in report.settings]
    writers: dict[str, Callable[[Sequence[PrintedTable]], str]] = {
        "md": _markdown,
        "csv": _csv,
        "tex": _latex,
    }
    return writers[kind](tables)


def _printed(report: EvaluationReport, setting: str) -> PrintedTable:
    """The rows of methods, real videos first, then those that only the paper states."""
    columns = report.columns(setting)
    rows = []
    for row in report.rows(setting):
        cells = []
        for column in columns:
            value = row.cells.get(column.name, Cell()).value
            mark = BEST if row.method in report.best(setting, column) else ""
            if value is not None and report.is_taught(row.method, column):
                mark = TAUGHT
            cells.append(("" if value is None else number(value), mark))
        rows.append((row.method, tuple(cells)))
    for method, values in report.stated(setting):
        cells = [(number(values[one.name]) if one.name in values else "", "") for one in columns]
        rows.append((f"{method} (paper)", tuple(cells)))
    # The column of real videos has its own name in a paper.
    rows = [("real videos" if name == REAL else name, cells) for name, cells in rows]
    return PrintedTable(setting, tuple(map(_title, columns)), tuple(rows))


def _title(column: Column) -> str:
    unit = f" ({column.unit})" if column.unit else ""
    return f"{column.name}{unit} {column.arrow}".rstrip()


def _markdown(tables: Sequence[PrintedTable]) -> str:
    """Bold: the best method; an exclamation mark: a network that taught it."""
    parts = []
    for table in tables:
        lines = [("method", *table.header), tuple("---" for _ in range(len(table.header) + 1))]
        for method, cells in table.rows:
            marked = [f"**{text}**" if mark == BEST else text + mark for text, mark in cells]
            lines.append((method, *marked))
        piped = [" | ".join(cell.replace("|", r"\|") for cell in line) for line in lines]
        text = "\n".join(f"| {line} |" for line in piped)
        parts.append(f"### {table.setting}\n\n{text}\n" + (f"\n! {TAUGHT_BY}\n" if table.has_taught else ""))
    return "\n".join(parts)


def _csv(tables: Sequence[PrintedTable]) -> str:
    """A line for each setting, method and number; its mark says best or taught."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("setting", "method", "number", "mean", "mark"))
    words = {BEST: "best", TAUGHT: "taught", "": ""}
    for table in tables:
        for method, cells in table.rows:
            for title, (text, mark) in zip(table.header, cells, strict=True):
                if text:
                    writer.writerow((table.setting, method, title, text, words[mark]))
    return lines.getvalue()


def _latex(tables: Sequence[PrintedTable]) -> str:
    """Tables for `booktabs`. Bold: the best method; a dagger: a network that taught it."""
    parts = []
    for table in tables:
        lines = [
            r"\begin{table}",
            rf"\caption{{{_escaped(table.setting.capitalize())}."
            + (rf" $\dagger$ {_escaped(TAUGHT_BY)}." if table.has_taught else "")
            + "}",
            rf"\begin{{tabular}}{{l{'r' * len(table.header)}}}",
            r"\toprule",
            " & ".join(["method", *map(_escaped, table.header)]) + r" \\",
            r"\midrule",
        ]
        for method, cells in table.rows:
            marked = [
                rf"\textbf{{{text}}}" if mark == BEST else text + (r"$^\dagger$" if mark == TAUGHT else "")
                for text, mark in cells
            ]
            lines.append(" & ".join([_escaped(method), *marked]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]))
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Text as LaTeX prints it.

    >>> _escaped("sync_conf ↑")
    'sync\\\\_conf $\\\\uparrow$'
    """
    return re.sub(".", lambda found: (_LATEX | ARROWS).get(found[0], found[0]), text)
