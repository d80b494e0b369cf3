"""Reads the rows of a list that a person wrote as CSV: the jobs of a batch, who says what in a cast."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from latentsync.errors import MediaError, UsageError
from latentsync.files import open_regular


def read_list(source: Path, *, most_bytes: int, hint: str) -> str:
    """The text of a list.

    Args:
        hint: what to give instead of a file that cannot be read.

    Raises:
        MediaError: it cannot be read, is larger, or is no text in UTF-8.
    """
    try:
        with open_regular(source, most_bytes=most_bytes) as file:
            # -sig: spreadsheets write a byte order mark, which would become part of the first column's name.
            return file.read().decode("utf-8-sig")
    except OSError as error:
        raise MediaError(f"'{source}': cannot be read ({error.strerror})", hint=hint) from error
    except UnicodeDecodeError as error:
        raise MediaError(f"'{source}': is not a text in UTF-8", hint="save it as UTF-8") from error


def csv_rows(
    source: Path, text: str, *, column_of: Callable[[str], str], check: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines that are not empty, with their numbers, 2 first: cells without surrounding spaces by column.

    Args:
        column_of: the column that a name in the header stands for.
        check: refuses columns.

    Raises:
        MediaError: the text is no CSV.
        UsageError: a column is refused or given twice, or a line has more cells than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column_of(name) for name in next(reader, [])]
        check(header)
        # A repeated column would silently win over the first one.
        for name, count in Counter(header).items():
            if count > 1:
                raise UsageError(f"'{source}': two columns are called '{name}'", hint="remove one of them")
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise UsageError(
                    f"'{source.name}', row {number}: has {len(cells)} cells, the header {len(header)}",
                    hint='put cells that contain a comma in quotes: "640,360"',
                )
            yield number, dict(zip(header, (cell.strip() for cell in cells), strict=False))
    except csv.Error as error:
        raise MediaError(f"'{source}', line {reader.line_num}: {error}", hint="correct this line") from error
