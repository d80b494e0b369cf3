"""The findings as text: a table for the terminal, and a CSV with every clip."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from latentsync.evaluate.findings import Findings
from latentsync.evaluate.score import ClipScores
from latentsync.evaluate.totals import Cell, Column

CSV_COLUMNS = ("setting", "clip", "method", "number", "value", "reason", "used_s", "notes")
_DASH = "–"


def table_lines(findings: Findings) -> list[str]:
    """The findings for people: a table for each setting, numbers down, methods across."""
    lines: list[str] = []
    for setting in findings.settings:
        lines += ["", *_setting_lines(findings, setting)]
    if any(findings.stated(setting) for setting in findings.settings):
        lines += ["", f"* stated in {findings.paper_source}"]
    lines += [f"{one.name}: {one.reason}" for one in findings.totals.unavailable]
    return lines[1:]


def _setting_lines(findings: Findings, setting: str) -> list[str]:
    rows, stated = findings.rows(setting), findings.stated(setting)
    table = [[setting, *(row.method for row in rows), *(f"{method}*" for method, _ in stated)]]
    table.append(["clips used", *(f"{row.used} of {row.clips}" for row in rows), *("" for _ in stated)])
    for column in findings.columns(setting):
        measured = [cell_text(row.cells.get(column.name, Cell())) for row in rows]
        told = [number(values[column.name]) if column.name in values else "" for _, values in stated]
        table.append([label(column), *measured, *told])
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    absent = findings.absent(setting)
    lines += [f"not measured: {', '.join(names)} ({reason})" for reason, names in absent.items()]
    for row in rows:
        if row.excluded:
            counts = ", ".join(f"{reason} {count}" for reason, count in row.excluded.items())
            lines.append(f"{row.method}: {row.clips - row.used} of {row.clips} clips excluded: {counts}")
    return lines + [caveat for caveat in [findings.caveat(setting)] if caveat]


def label(column: Column) -> str:
    """The name of a number with its unit and which way is better."""
    return " ".join(part for part in (column.name, column.unit and f"({column.unit})", column.arrow) if part)


def cell_text(cell: Cell) -> str:
    """A number with its interval and the count of clips behind it."""
    return _DASH if cell.value is None else f"{number(cell.value)} {certainty(cell)}"


def certainty(cell: Cell) -> str:
    """The interval of a number and the count of clips behind it."""
    interval = "" if cell.low is None or cell.high is None else f"[{number(cell.low)}, {number(cell.high)}] "
    return f"{interval}n={cell.clips}"


def number(value: float) -> str:
    """Four digits.

    >>> number(0.79123), number(192.74), number(12345.6)
    ('0.7912', '192.7', '12346')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_csv(findings: Findings, path: Path) -> None:
    """Write one line for every clip, method and number; where there is no value, the reason.

    Numbers of whole sets, such as FID, have no clip and are left out.
    """
    with _replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for one in findings.scores:
            for column in findings.totals.columns:
                if not column.is_of_set:
                    writer.writerow(_csv_row(one, column))


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


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with _replacing(path) as file:
        file.write(text)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
