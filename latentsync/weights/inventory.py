"""What is in the cache: which entries are here, whether they are whole, and their removal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from latentsync.events import Report
from latentsync.weights.cache import folder_of, is_present, path_of
from latentsync.weights.catalog import WeightsEntry, WeightsFile, find_entry, load_catalog
from latentsync.weights.downloads import discard
from latentsync.weights.hub import AGAIN, COMMIT, WHOLE_HASH, expected_hash, origin_of, part_of, seen
from latentsync.weights.records import (
    Record,
    cannot_write,
    file_locked,
    hash_file,
    is_unchanged,
    record_of,
    remember,
)

ORIGINS = {
    "catalogue": "",
    "hub": ", hash stated by the hub",
    "first seen": ", hash first seen here",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry as it is now.

    is_present  every file is there
    size_bytes  of the files, as far as known; None where nothing is
    is_exact    `size_bytes` is not a rough one
    state       what to know about the files, in words
    """

    entry: WeightsEntry
    is_present: bool
    size_bytes: int | None
    is_exact: bool
    state: str


@dataclass(frozen=True, slots=True)
class Verified:
    """One file, hashed again.

    expected  the hash it should have; None if it was never seen before
    found     the hash it has; None if it is missing
    fault     what is wrong, in words; None if nothing is
    remedy    what to do about it
    """

    entry: str
    path: Path
    expected: str | None
    found: str | None
    fault: str | None
    remedy: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did. `kept` are files that other entries use."""

    removed: tuple[Path, ...]
    kept: tuple[Path, ...]
    freed_bytes: int


def survey() -> list[Listed]:
    """Every entry of the catalogue, and what of it is here. Reads no weights."""
    return [_list(entry) for entry in load_catalog().values()]


def verify(names: Iterable[str], report: Report) -> list[Verified]:
    """Hash every file of the entries called `names`, or of all that are here, and record what is new.

    Raises:
        WeightsError: a name is unknown, or a file cannot be read.
    """
    chosen = [find_entry(name) for name in names] or [
        entry for entry in load_catalog().values() if any(path_of(file).exists() for file in entry.files)
    ]
    return [_verify(entry, file, report) for entry in chosen for file in entry.files]


def remove(names: Iterable[str], report: Report) -> Removed:
    """Delete the files of the entries called `names`, but for those that another present entry uses.

    What is known of their hashes stays, so that a later pull is checked.

    Raises:
        WeightsError: a name is unknown, or a file cannot be deleted.
    """
    chosen = {entry.name: entry for entry in map(find_entry, names)}
    others = [entry for entry in load_catalog().values() if entry.name not in chosen and is_present(entry)]
    shared = {path_of(file) for entry in others for file in entry.files}
    removed, kept, freed_bytes = [], [], 0
    for file in {path_of(file): file for entry in chosen.values() for file in entry.files}.values():
        path = path_of(file)
        if path in shared:
            kept.append(path)
            continue
        with file_locked(file, report):
            gone_bytes = _delete(file)
        freed_bytes += gone_bytes
        if gone_bytes:
            removed.append(path)
    return Removed(tuple(removed), tuple(kept), freed_bytes)


def _list(entry: WeightsEntry) -> Listed:
    records = [record_of(file) for file in entry.files]
    here = [path_of(file) for file in entry.files if path_of(file).is_file()]
    if len(here) == len(entry.files):
        states = [_state(file, record) for file, record in zip(entry.files, records, strict=True)]
        damaged = [state for state in states if state.startswith("damaged")]
        worth_saying = [*damaged, *(state for state in states if state != "present"), "present"]
        return Listed(entry, True, sum(path.stat().st_size for path in here), True, worth_saying[0])
    state = f"incomplete, {len(here)} of {len(entry.files)} files" if here else "missing"
    if not here and any(part_of(path_of(file)).exists() for file in entry.files):
        state = "missing, a pull was begun"
    if any(len(expected_hash(*pair) or "") < WHOLE_HASH for pair in zip(entry.files, records, strict=True)):
        is_branch = any(file.revision and not COMMIT.fullmatch(file.revision) for file in entry.files)
        state += f", hash{' and commit' if is_branch else ''} recorded at the first pull"
    sizes = [file.size_bytes or file.about_bytes for file in entry.files]
    known = [size for size in sizes if size is not None]
    is_exact = all(file.size_bytes for file in entry.files)
    return Listed(entry, False, sum(known) if len(known) == len(sizes) else None, is_exact, state)


def _state(file: WeightsFile, record: Record | None) -> str:
    """The state of a file that is here, without reading it."""
    size_bytes = path_of(file).stat().st_size
    if file.size_bytes not in (None, size_bytes):
        return f"damaged, {size_bytes} bytes instead of {file.size_bytes}"
    expected = expected_hash(file, record)
    if record is None or not is_unchanged(file, record):
        return "present, not verified" if record is None else "present, changed since it was verified"
    if record.sha256 != expected:
        return "damaged, another hash than the catalogue's"
    origin = ORIGINS[origin_of(file, record)]
    return f"present{origin}{f', commit {record.commit[:8]}' if record.commit and origin else ''}"


def _verify(entry: WeightsEntry, file: WeightsFile, report: Report) -> Verified:
    path = path_of(file)
    if not path.is_file():
        remedy = f"run 'latentsync models pull {entry.name}'"
        return Verified(entry.name, path, file.sha256, None, "is missing", remedy)
    record = record_of(file)
    expected, found, fault = expected_hash(file, record), hash_file(path, report), None
    size_bytes = path.stat().st_size
    if file.size_bytes not in (None, size_bytes):
        fault = f"has {size_bytes} bytes, expected {file.size_bytes}"
    elif not found.startswith(expected or ""):
        fault = f"has the SHA-256 {found}, expected {expected}"
    else:
        remember(file, seen(path, found, origin_of(file, record), record.commit if record else None))
    return Verified(entry.name, path, expected, found, fault, AGAIN.format(entry.name))


def _delete(file: WeightsFile) -> int:
    """Delete `file`, what was begun of it, and folders that are empty then; returns the bytes freed."""
    path, freed_bytes = path_of(file), 0
    try:
        for gone in (path, part_of(path)):
            if gone.is_file():
                freed_bytes += gone.stat().st_size
                gone.unlink()
        discard(part_of(path))
    except OSError as error:
        raise cannot_write(path, error) from error
    record = record_of(file)
    if record is not None:
        remember(file, replace(record, mtime_ns=None))
    folder = path.parent
    with contextlib.suppress(OSError):  # not empty
        while folder != folder_of(file):
            folder.rmdir()
            folder = folder.parent
    return freed_bytes
