"""Brings the files of an entry from the hub, an address or a folder, and checks them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from latentsync.errors import UsageError, WeightsError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.weights.cache import folder_of, path_of
from latentsync.weights.catalog import WeightsEntry, WeightsFile, with_needs
from latentsync.weights.downloads import REACH, Order, Patience, check_room, discard, download
from latentsync.weights.records import (
    BLOCK_BYTES,
    Origin,
    Record,
    cannot_write,
    file_locked,
    hash_file,
    in_megabytes,
    is_unchanged,
    record_of,
    remember,
)

CEILING_BYTES = 16_000_000_000  # for a file of unknown size; ours, three times the largest known one
WHOLE_HASH = 64
COMMIT = re.compile(r"[0-9a-f]{40}")
COPY_AGAIN = "copy it again: it is not whole, or it is another file"
AGAIN = "run 'latentsync models pull --force {}' to fetch it again"
OTHER_SOURCE = (
    "use another mirror; where the hash was only recorded here and the file was replaced, add --force"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """How files are brought.

    source      a folder to copy from, for machines without a network
    is_offline  nothing goes to the network
    is_forced   files are fetched again, and hashes that were only recorded here are forgotten
    """

    source: Path | None = None
    is_offline: bool = False
    is_forced: bool = False
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Pulled:
    """One file that is now here, whole and checked."""

    entry: str
    path: Path
    outcome: Literal["fetched", "copied", "present"]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a file are now, and what that place says about them."""

    url: str
    commit: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None


def pull(names: Iterable[str], how: Pull, report: Report) -> list[Pulled]:
    """Bring every file of the entries called `names` and of what they need; what is here and whole stays.

    Raises:
        WeightsError: a name is unknown, or a file cannot be had, or is not what it should be.
        UsageError: the folder to copy from does not exist.
    """
    entries = with_needs(names)
    pairs = [(entry, file) for entry in entries for file in entry.files]
    missing = [pair for pair in pairs if how.is_forced or not path_of(pair[1]).is_file()]
    report(Plan(tuple(_terms(entry) for entry in entries)))
    copies = {}
    if how.source is not None:
        copies = _find_copies(missing, how.source)
    elif missing and is_offline(how):
        raise _cannot_go_online(missing)
    _check_room(file for _, file in missing)
    done = []
    for entry, file in pairs:
        with file_locked(file, report):
            done.append(_pull_file(entry, file, copies.get(file.path), how, report))
    return done


def is_offline(how: Pull) -> bool:
    """Whether the network is off limits, by `how` or by the hub's own HF_HUB_OFFLINE."""
    return how.is_offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")


def part_of(path: Path) -> Path:
    """Where the unfinished file of `path` lies."""
    return path.with_name(f"{path.name}.part")


def expected_hash(file: WeightsFile, record: Record | None) -> str | None:
    """The SHA-256 that `file` must have, or its first digits, or None before it was ever seen.

    The catalogue wins over what was recorded here: it may have been corrected since.
    """
    if record is not None and record.sha256.startswith(file.sha256 or ""):
        return record.sha256
    return file.sha256


def origin_of(file: WeightsFile, record: Record | None, hub_hash: str | None = None) -> Origin:
    """Who vouches for the hash of `file`."""
    if file.sha256 is not None and len(file.sha256) == WHOLE_HASH:
        return "catalogue"
    if hub_hash is not None:
        return "hub"
    return record.origin if record is not None else "first seen"


def size_of(file: WeightsFile) -> str:
    """The size of `file` in words.

    >>> size_of(WeightsFile(path="a", about_bytes=5_072_000_000))
    'about 5.1 GB'
    """
    count = file.size_bytes or file.about_bytes
    if count is None:
        return "size unknown"
    words = f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{in_megabytes(count)} MB"
    return words if file.size_bytes else f"about {words}"


def _check_room(files: Iterable[WeightsFile]) -> None:
    """Refuse to begin what the disks cannot hold, as far as sizes are known."""
    needed_bytes: dict[Path, int] = {}
    for file in files:
        part = part_of(path_of(file))
        rest_bytes = (file.size_bytes or file.about_bytes or 0) - (
            part.stat().st_size if part.exists() else 0
        )
        needed_bytes[folder_of(file)] = needed_bytes.get(folder_of(file), 0) + max(0, rest_bytes)
    for folder, count in needed_bytes.items():
        check_room(folder, count)


def _terms(entry: WeightsEntry) -> str:
    """What a person should know before a download."""
    sizes = " + ".join(size_of(file) for file in entry.files)
    return f"{entry.name}: {sizes}; licence {entry.licence}; commercial use: {entry.commercial_use}"


def _pull_file(
    entry: WeightsEntry, file: WeightsFile, copy: Path | None, how: Pull, report: Report
) -> Pulled:
    """Bring one file, which this process has locked."""
    path, record = path_of(file), None if how.is_forced else record_of(file)
    if path.is_file() and not how.is_forced:
        return Pulled(entry.name, path, "present", _check_present(entry, file, record, how, report))
    if copy is not None:
        return _copy_file(entry, file, copy, record, report)
    if is_offline(how):  # it went away since the look at the start
        raise _cannot_go_online([(entry, file)])
    try:
        place = _locate(file, record)
        digest = _download(file, place, record, how.patience, report)
    except WeightsError as error:
        if file.hub is None or file.url is None:
            raise
        report(Note(f"{error}; trying {file.url}", level="warning"))
        place = _Place(file.url)
        digest = _download(file, place, record, how.patience, report)
    _put_in_place(file, digest, origin_of(file, record, place.sha256), place.commit)
    return Pulled(entry.name, path, "fetched", digest)


def _check_present(
    entry: WeightsEntry, file: WeightsFile, record: Record | None, how: Pull, report: Report
) -> str:
    """The hash of a file that is already here. It is read only if it changed since it was last."""
    path, expected = path_of(file), expected_hash(file, record)
    if record is not None and record.sha256 == expected and is_unchanged(file, record):
        return record.sha256
    check_size(path, file, AGAIN.format(entry.name))
    place = _Place("", record.commit if record else None)
    if len(expected or "") < WHOLE_HASH and file.hub and how.source is None and not is_offline(how):
        with contextlib.suppress(WeightsError):  # the hub cannot be reached: the file is taken as it is
            place = _locate(file, record)
    if place.sha256 is not None and place.sha256.startswith(expected or ""):
        expected = place.sha256
    if expected is None:
        report(Note(f"{file.path}: there is nothing to check it against, so its hash is recorded now"))
    digest = hash_file(path, report)
    if not digest.startswith(expected or ""):
        raise _is_another(path, digest, expected, AGAIN.format(entry.name))
    remember(file, seen(path, digest, origin_of(file, record, place.sha256), place.commit))
    return digest


def _locate(file: WeightsFile, record: Record | None) -> _Place:
    """Where `file` is now. A branch of the hub becomes the commit it means, or meant at the first pull."""
    if file.hub is None or file.hub_file is None or file.revision is None:
        return _Place(file.url or "")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    revision = file.revision
    if record is not None and record.commit is not None and COMMIT.fullmatch(revision) is None:
        revision = record.commit
    url = hf_hub_url(file.hub, file.hub_file, revision=revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=False, timeout=30)
    except Exception as error:  # the hub's library has other transports, and other errors, in each version
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"'{url}': {said}", hint=REACH) from error
    pinned = hf_hub_url(file.hub, file.hub_file, revision=found.commit_hash or revision, endpoint=endpoint)
    is_hash = re.fullmatch(r"[0-9a-f]{64}", found.etag or "")  # what the hub gives to large files
    return _Place(pinned, found.commit_hash, found.etag if is_hash else None, found.size)


def _download(
    file: WeightsFile, place: _Place, record: Record | None, patience: Patience, report: Report
) -> str:
    """Bring the bytes of `place` into the part file and check them."""
    path = path_of(file)
    part, expected = part_of(path), expected_hash(file, record)
    if place.sha256 is not None:
        if not place.sha256.startswith(expected or ""):
            raise _is_another(place.url, place.sha256, expected, OTHER_SOURCE)
        expected = place.sha256
    size_bytes = file.size_bytes or (place.size_bytes if place.sha256 else None)
    ceiling_bytes = size_bytes or (2 * file.about_bytes if file.about_bytes else CEILING_BYTES)
    is_fixed = place.commit is not None or expected is not None
    order = Order(
        url=place.url,
        part=part,
        label=path.name,
        size_bytes=size_bytes,
        ceiling_bytes=ceiling_bytes,
        is_fixed=is_fixed,
    )
    report(Plan((f"fetching {file.path} from {place.url}",)))
    was_begun = part.exists()
    digest = download(order, report, patience)
    if was_begun and not digest.startswith(expected or ""):
        report(Note(f"{path.name}: what was left of an earlier pull was damaged, starting afresh", "warning"))
        discard(part)
        digest = download(order, report, patience)
    if not digest.startswith(expected or ""):
        discard(part)
        raise _is_another(place.url, digest, expected, OTHER_SOURCE)
    return digest


def _find_copies(missing: Sequence[tuple[WeightsEntry, WeightsFile]], source: Path) -> dict[str, Path]:
    """Find each missing file below `source`: by its path in the cache or on the hub, or by its bare name."""
    if not source.is_dir():
        raise UsageError(f"--from '{source}': no such folder", hint="give the folder that the files are in")
    copies: dict[str, Path] = {}
    absent = []
    for entry, file in missing:
        names = [file.path, *([file.hub_file] if file.hub_file else []), PurePosixPath(file.path).name]
        found = next((source / name for name in names if (source / name).is_file()), None)
        if found is None:
            absent.append(f"{file.path} ({entry.name}: {entry.enables})")
            continue
        if found in copies.values():
            raise WeightsError(
                f"'{found}' could be two files: {file.path} and another of that name",
                hint=f"put each where the cache has it: {source / file.path}",
            )
        copies[file.path] = found
    if absent:
        raise WeightsError(
            f"'{source}' lacks {', '.join(absent)}",
            hint="put each file there under that path or its bare name",
        )
    return copies


def _copy_file(
    entry: WeightsEntry, file: WeightsFile, copy: Path, record: Record | None, report: Report
) -> Pulled:
    """Copy `copy` into its place. It is checked like a download, and never moved or changed."""
    path = path_of(file)
    size_bytes = copy.stat().st_size
    check_size(copy, file, COPY_AGAIN)
    check_room(path.parent, size_bytes)
    part, digest, expected = part_of(path), hashlib.sha256(), expected_hash(file, record)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("rb") as theirs, part.open("wb") as ours:
            while block := theirs.read(BLOCK_BYTES):
                ours.write(block)
                digest.update(block)
                done, total = in_megabytes(ours.tell()), in_megabytes(size_bytes)
                report(Progress(f"copy {path.name}", done, total, "MB"))
            ours.flush()
            os.fsync(ours.fileno())
        found = digest.hexdigest()
        if not found.startswith(expected or ""):
            raise _is_another(copy, found, expected, COPY_AGAIN)
        _put_in_place(file, found, origin_of(file, record), record.commit if record else None)
    except OSError as error:
        raise cannot_write(part, error) from error
    finally:
        part.unlink(missing_ok=True)
    return Pulled(entry.name, path, "copied", found)


def check_size(path: Path, file: WeightsFile, hint: str) -> None:
    """Refuse a copy of `file` at `path` that has another size than the catalogue says.

    Raises:
        WeightsError: with the two sizes and `hint`.
    """
    size_bytes = path.stat().st_size
    if file.size_bytes not in (None, size_bytes):
        raise WeightsError(f"'{path}' has {size_bytes} bytes, expected {file.size_bytes}", hint=hint)


def _put_in_place(file: WeightsFile, digest: str, origin: Origin, commit: str | None) -> None:
    """Give the finished part its name, and keep what was seen."""
    path = path_of(file)
    part = part_of(path)
    try:
        os.replace(part, path)
        discard(part)
    except OSError as error:
        raise cannot_write(path, error) from error
    remember(file, seen(path, digest, origin, commit))


def seen(path: Path, digest: str, origin: Origin, commit: str | None) -> Record:
    """What to remember of the file at `path`, which was hashed just now."""
    status = path.stat()
    return Record(
        sha256=digest,
        size_bytes=status.st_size,
        origin=origin,
        commit=commit,
        mtime_ns=status.st_mtime_ns,
    )


def _is_another(where: object, found: str, expected: str | None, hint: str) -> WeightsError:
    more = "" if len(expected or "") == WHOLE_HASH else "…"
    return WeightsError(f"'{where}' has the SHA-256 {found}, expected {expected}{more}", hint=hint)


def _cannot_go_online(missing: Sequence[tuple[WeightsEntry, WeightsFile]]) -> WeightsError:
    lacks = "; ".join(f"{file.path} ({entry.name}: {entry.enables})" for entry, file in missing)
    names = " ".join(dict.fromkeys(entry.name for entry, _ in missing))
    return WeightsError(
        f"missing, and nothing may be downloaded (--offline or HF_HUB_OFFLINE): {lacks}",
        hint=f"bring the files from a machine with a network, then run "
        f"'latentsync models pull {names} --from DIR'",
    )
