"""What is finished: an append-only file of JSON lines for every shard, from which a stopped run resumes."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from latentsync.errors import MediaError, UsageError
from latentsync.files import damaged_line, integer_from, json_lines

_NAME = "shard-{index}-of-{count}"
_LOCK_TRIES, _LOCK_WAIT_S = 10, 0.1


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`, counted from 1. A key stays in its part when others are added."""

    index: int = 1
    count: int = 1

    def has(self, key: str) -> bool:
        """Whether `key` belongs to this part."""
        return integer_from(key) % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """A shard written as i/n.

    Raises:
        UsageError: not of that form, or outside 1/n to n/n.

    >>> parse_shard("2/8")
    Shard(index=2, count=8)
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return Shard(int(index), int(count))
    raise UsageError(
        f"--shard '{text}': not of the form i/n", hint="write i/n, from 1/8 to 8/8 for eight shards"
    )


class Log:
    """The file of one shard. While it is open, no other run may open the same shard."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        """Open the file of `shard`; a last line that a killed run left unfinished is cut off.

        Raises:
            UsageError: another run has it open.
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = _NAME.format(index=shard.index, count=shard.count)
        self.path = folder / f"{name}.jsonl"
        self._file = self.path.open("a+b", buffering=0)
        if not _lock(self._file):
            self._file.close()
            raise UsageError(
                f"'{self.path}': another run is writing this log",
                hint="wait for it, stop it, or give every run its own --shard i/n",
            )
        self._cut_off_unfinished_line()

    def append(self, key: str, values: Mapping[str, Any]) -> None:
        """Add one entry and wait until the disk has it; an entry that does not fit is taken back.

        An entry with a "failure" counts as a failed attempt; any other settles `key`.

        Raises:
            OSError: the disk is full.
        """
        line = json.dumps({"key": key, "at_s": round(time.time(), 6), **values}) + "\n"
        rest = line.encode("ascii")
        try:
            while rest:  # an unbuffered file may take a part only
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._cut_off_unfinished_line()
            raise

    def _cut_off_unfinished_line(self) -> None:
        with self.path.open("rb") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        self._file.truncate(whole)

    def close(self) -> None:
        """Let other runs open this shard."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a log. `values` are as `append` got them, or as somebody changed them since."""

    key: str
    at_s: float
    values: dict[str, Any]
    path: Path
    line: int

    def damaged(self, reason: str) -> MediaError:
        """The error about an entry that its reader cannot use."""
        return damaged_line(self.path, self.line, reason)


@dataclass(frozen=True, slots=True)
class Past:
    """What the logs say.

    settled  the last entry of every finished key; a key can be in two logs if the number of shards changed
    tries    failed attempts at a key since then
    """

    settled: dict[str, Entry]
    tries: Counter[str]


def read_past(folder: Path, *, has: Callable[[str], bool] = lambda key: True) -> Past:
    """Read the logs of all shards; an entry that a running shard has not finished writing is left out.

    Args:
        has: which keys are wanted; others are not kept in memory.

    Raises:
        MediaError: a line is not an entry.
    """
    past = Past({}, Counter())
    for entry in sorted(_entries(folder, has), key=lambda entry: entry.at_s):
        if entry.values.get("failure"):
            past.tries[entry.key] += 1
        else:
            past.settled[entry.key] = entry
            past.tries[entry.key] = 0
    return past


def _entries(folder: Path, has: Callable[[str], bool]) -> Iterator[Entry]:
    for path in sorted(folder.glob("*.jsonl")):
        for number, values in json_lines(path):
            key, at_s = (values.get("key"), values.get("at_s")) if isinstance(values, dict) else (None, None)
            if not isinstance(key, str):
                raise damaged_line(path, number, "has no 'key' that is a text")
            if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not abs(at_s) < math.inf:
                raise damaged_line(path, number, "has no 'at_s' that is a number")
            if has(key):
                yield Entry(key, float(at_s), values, path, number)


def are_others_running(folder: Path) -> bool | None:
    """Whether another shard is being worked on; None where the file system knows no locks."""
    for path in folder.glob("*.jsonl"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other run holds the lock on the file `path`."""
    with path.open("ab") as file:
        with suppress(OSError):  # a file system without locks: every run writes the same in the end
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(file: FileIO) -> bool:
    """Lock `file` until it is closed; False if another run has it. True on file systems without locks."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_S)  # it may be a shard that only looks whether others are running
        except OSError:
            return True
        else:
            return True
    return False
