"""Files of this machine: written whole or not at all, hashed, opened only if regular, and room for more."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from latentsync.errors import MediaError

BLOCK_BYTES = 1 << 20
_LONGEST_STEM_BYTES = 120  # of a name of at most 255: room for the writer's mark
# A writer's mark: where it runs (a digest of the host name), its process, and a token of its own.
_PART = re.compile(r"\.(?P<host>[0-9a-f]{6})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\.part(\.[^.]*)?$")


@contextmanager
def whole_or_nothing(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """Give the name of a part file next to `path`, renamed to `path` at the end if nothing was raised.

    The name is unique to this writer, so threads, processes and machines can write the same path: the last
    one wins, and a reader sees one or the other. The bytes are on the disk before the name is. After a
    failure, Ctrl-C included, the part is removed; what a killed process left is removed by `sweep_parts`.

    Args:
        keep_suffix: end the part's name as `path` ends, for writers that go by the suffix.

    Raises:
        OSError: the part cannot be written or renamed.
    """
    part = part_beside(path, keep_suffix=keep_suffix)
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def part_beside(path: Path, *, keep_suffix: bool = False) -> Path:
    """A name beside `path` that no other writer uses, for what is not finished yet."""
    suffix = path.suffix if keep_suffix else ""
    return path.with_name(f"{_stem_of(path)}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part{suffix}")


def sweep_parts(folder: Path) -> list[Path]:
    """Remove the parts in `folder` whose writer is dead, and return them; those of other hosts are kept."""
    removed = []
    with suppress(OSError):
        for part in sorted(folder.iterdir()):
            mark = _PART.search(part.name)
            if mark and mark["host"] == _host() and not _is_alive(int(mark["pid"])):
                with suppress(OSError):
                    part.unlink()
                    removed.append(part)
    return removed


def live_parts(path: Path) -> list[int]:
    """The processes of this host that are writing `path` now, by their parts beside it."""
    stem = f"{_stem_of(path)}."
    writers = []
    with suppress(OSError):
        for part in sorted(path.parent.iterdir()):
            mark = _PART.search(part.name)
            if mark and mark["host"] == _host() and part.name[: mark.start() + 1] == stem:
                writers += [int(mark["pid"])] if _is_alive(int(mark["pid"])) else []
    return writers


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        OSError: it cannot be read.
        MediaError: it is not a regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def integer_from(text: str) -> int:
    """The first 64 bits of the SHA-256 of `text`: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def open_regular(path: Path, *, most_bytes: int | None = None) -> BufferedReader:
    """Open a file for reading if it is a regular one: a FIFO or a device would block or never end.

    Args:
        most_bytes: refuse a larger file.

    Raises:
        OSError: it is not there or cannot be read.
        MediaError: it is a folder, a FIFO, a device or a socket, or too large.
    """
    # Not blocking, so that a FIFO without a writer can be refused instead of waited for.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"'{path}' is a folder", hint="give the name of a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"'{path}' is not a regular file", hint="save it to a file first")
        if most_bytes is not None and status.st_size > most_bytes:
            raise MediaError(
                f"'{path}' has {status.st_size:,} bytes, at most {most_bytes:,} are allowed",
                hint="check that this is the right file",
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def json_lines(path: Path, *, most_line_bytes: int = 1 << 24) -> Iterator[tuple[int, Any]]:
    """The values in a file with one JSON value per line, with the numbers of their lines from 1.

    A last line without its line end is skipped: a killed writer left it, or a living one is writing it.

    Raises:
        OSError: it does not exist or cannot be read.
        MediaError: it is not a regular file, or a line is too long or not JSON.
    """
    with open_regular(path) as file:
        number = 0
        while (line := file.readline(most_line_bytes + 1)).endswith(b"\n"):
            number += 1
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise damaged_line(path, number, f"not JSON ({reason})") from error
        if len(line) > most_line_bytes:
            raise damaged_line(path, number + 1, f"longer than {most_line_bytes:,} bytes")


def damaged_line(path: Path, number: int, reason: str) -> MediaError:
    """The error about a line that another program, or a failing disk, changed."""
    return MediaError(f"'{path}', line {number}: {reason}", hint="remove this line, or restore the file")


def free_bytes(path: Path) -> int:
    """Free disk space where `path` is or would be: at the nearest folder above it that exists."""
    return shutil.disk_usage(nearest_folder(path)).free


def nearest_folder(path: Path) -> Path:
    """The folder `path`, or the nearest one above it that exists."""
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _stem_of(path: Path) -> str:
    return os.fsencode(path.name)[:_LONGEST_STEM_BYTES].decode(errors="ignore").rstrip()


def _flush(part: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # some disks say only here that they are full


def _host() -> str:
    """A digest of the machine's name and, in a container, of its namespace: only there is a pid unique."""
    name = os.uname().nodename if hasattr(os, "uname") else ""
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # it is another user's
    return True
