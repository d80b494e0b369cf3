"""What was seen when a file came: its hash and commit, kept in the cache and checked from then on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError

from latentsync.errors import WeightsError
from latentsync.events import Note, Progress, Report, ignore
from latentsync.weights.cache import cache_folder, folder_of, path_of
from latentsync.weights.catalog import WeightsFile

KNOWN = "known.json"
BLOCK_BYTES = 1 << 20
MEGABYTE = 1_000_000

Origin = Literal["catalogue", "hub", "first seen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a file that was here.

    origin    who vouches for the hash: the catalogue, the hub that sent it, or nobody: it was first seen here
    commit    the commit that the file's revision meant then; None for a plain address
    mtime_ns  the file's time of change when it was last hashed; None once it was removed
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    sha256: str
    size_bytes: int
    origin: Origin
    commit: str | None = None
    mtime_ns: int | None = None


def read_records() -> dict[str, Record]:
    """All records of this cache.

    Raises:
        WeightsError: the file of records is damaged, or may not be read.
    """
    path = cache_folder() / KNOWN
    try:
        return TypeAdapter(dict[str, Record]).validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise WeightsError(
            f"'{path}' cannot be read: {error.strerror}",
            hint="make it readable, or set LATENTSYNC_CACHE to another folder",
        ) from error
    except ValidationError as error:
        raise WeightsError(
            f"'{path}' is damaged", hint="delete it: hashes are then recorded afresh"
        ) from error


def record_of(file: WeightsFile) -> Record | None:
    """What is known of `file`, if it was ever here."""
    return read_records().get(_key(file))


def remember(file: WeightsFile, record: Record) -> None:
    """Keep `record`; other processes may do the same at the same time."""
    path = cache_folder() / KNOWN
    part = path.with_name(f"{KNOWN}.part")
    try:
        with locked(cache_folder(), KNOWN):
            records = {**read_records(), _key(file): record}
            lines = {key: asdict(records[key]) for key in sorted(records)}
            part.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def is_unchanged(file: WeightsFile, record: Record | None) -> bool:
    """Whether the file is as it was when it was last hashed, by its size and time of change."""
    if record is None or record.mtime_ns is None:
        return False
    status = path_of(file).stat()
    return (status.st_size, status.st_mtime_ns) == (record.size_bytes, record.mtime_ns)


def hash_file(path: Path, report: Report = ignore) -> str:
    """The SHA-256 of the file at `path`, read in blocks.

    Raises:
        WeightsError: it cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                report(Progress(f"check {path.name}", in_megabytes(done), in_megabytes(total), "MB"))
    except OSError as error:
        raise WeightsError(
            f"cannot read '{path}': {error.strerror}", hint="give a file that can be read"
        ) from error
    return digest.hexdigest()


@contextlib.contextmanager
def file_locked(file: WeightsFile, report: Report) -> Iterator[None]:
    """Hold `file` against every other process that would write or remove it."""
    with locked(folder_of(file), file.path, report):
        yield


@contextlib.contextmanager
def locked(folder: Path, name: str, report: Report = ignore) -> Iterator[None]:
    """Hold the lock called `name` in `folder`; says so when another process has it."""
    place = folder / ".locks"
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / f"{name.replace('/', '--')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(Note(f"another process is at work on '{name}': waiting for it"))
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise cannot_write(place, error) from error
    try:
        yield
    finally:
        lock.release()


def cannot_write(path: Path, error: Exception) -> WeightsError:
    """The failure to write at `path`, with its remedy."""
    reason = getattr(error, "strerror", None) or str(error)
    return WeightsError(
        f"cannot write '{path}': {reason[:1].lower()}{reason[1:]}",
        hint="free some space or set LATENTSYNC_CACHE to a writable folder, then run the same command again",
    )


def in_megabytes(count: int) -> int:
    """Bytes as megabytes, rounded up, so that a small file is not nothing."""
    return -(-count // MEGABYTE)


def _key(file: WeightsFile) -> str:
    return file.path if file.place == "cache" else f"{file.place}:{file.path}"
