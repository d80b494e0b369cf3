"""What a run writes down as it goes: one JSON object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LOG_NAME = "log.jsonl"

Row = dict[str, Any]


def read_log(output: Path) -> list[Row]:
    """The rows of a run's log; a line that was cut off by a kill is left out."""
    path = output / LOG_NAME
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "samples" in row:
            rows.append(row)
    return rows


class TrainingLog:
    """Appends rows to `log.jsonl` and to TensorBoard's files; rows past the point of continuing are dropped.

    A row holds `samples`, `steps` and tables of numbers such as `losses` or `validation`; a number may stand
    alone. Processes but the main one keep rows in memory only.
    """

    def __init__(self, output: Path, *, samples: int, is_main: bool) -> None:
        self.rows = [row for row in read_log(output) if row["samples"] <= samples]
        self._file = self._board = None
        if not is_main:
            return
        from torch.utils.tensorboard import SummaryWriter

        output.mkdir(parents=True, exist_ok=True)
        path = output / LOG_NAME
        part = path.with_name(f"{LOG_NAME}.part")
        part.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows), encoding="utf-8")
        os.replace(part, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=samples + 1 if samples else None)

    def write(self, row: Row) -> None:
        """Add one row; it is on disk afterwards."""
        self.rows.append(row)
        if self._file is None or self._board is None:
            return
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()
        for name, value in row.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                if isinstance(number, int | float) and name != "samples":
                    self._board.add_scalar(f"{name}/{key}" if key else name, number, row["samples"])

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._board):
            if file is not None:
                file.close()
