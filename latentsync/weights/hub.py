"""Finds, pulls, checks and removes the files of the catalogue.

A file of the Hugging Face hub lies in the hub's own cache, which other programs share, at the commit that the
catalogue names. Files of plain addresses, and copies from a folder, lie in our cache folder or in torch's.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from latentsync.errors import UsageError, WeightsError
from latentsync.events import Note, Plan, Progress, Report, ignore
from latentsync.files import BLOCK_BYTES, free_bytes, open_regular, whole_or_nothing
from latentsync.weights.catalog import WeightsEntry, find_entry, load_catalog, with_needs
from latentsync.weights.download import REACH, cannot_write, download, in_megabytes, part_of, plain

SPARE_BYTES = 64 << 20  # left free on the disk
DEAD_S = 3600.0  # without a byte; the hub's library gives up after some minutes
AGAIN = "run 'latentsync models pull --force {}' to fetch it again"


@dataclass(frozen=True, slots=True)
class Pulled:
    """One file that is now here. `sha256` was taken just now, so it is None for a file that was present."""

    entry: str
    path: Path
    outcome: Literal["fetched", "copied", "present"]
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry as it is now.

    path        where its file is; None if it is missing
    size_bytes  as far as known
    is_exact    `size_bytes` is not a rough one
    state       what to know about the file, in words
    """

    entry: WeightsEntry
    path: Path | None
    size_bytes: int | None
    is_exact: bool
    state: str


@dataclass(frozen=True, slots=True)
class Verified:
    """One file, hashed.

    expected  the hash it should have; None if nobody states one
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


def cache_folder() -> Path:
    """Our own cache: LATENTSYNC_CACHE, or `latentsync` in the user's cache.

    Raises:
        WeightsError: LATENTSYNC_CACHE begins with the name of a user that does not exist.
    """
    chosen = os.environ.get("LATENTSYNC_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "latentsync"
    except RuntimeError as error:
        message = f"LATENTSYNC_CACHE = '{chosen}': {error}"
        raise WeightsError(message, hint="give the folder's full path") from error


def torch_hub_folder() -> Path:
    """Torch's hub folder, found as `torch.hub.get_dir` does but without loading torch.

    Source: face-alignment, pytorch-fid and torchvision look their files up by name in its `checkpoints`.
    """
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub"


def hub_cache_folder() -> Path:
    """The cache that programs which use the Hugging Face hub share: HF_HUB_CACHE, or `hub` in HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def path_of(entry: WeightsEntry) -> Path:
    """Where the file of `entry` is found, or where a copy of it would be put."""
    own = _own_path(entry)
    return own if own.is_file() else _in_hub_cache(entry) or own


def is_present(entry: WeightsEntry) -> bool:
    """Whether the file of `entry` exists. What is in it is not looked at."""
    return path_of(entry).is_file()


def need(name: str) -> Path:
    """The path of the file of the entry called `name`, which must exist.

    Raises:
        WeightsError: there is no such entry, or its file is missing.
    """
    entry = find_entry(name)
    path = path_of(entry)
    if not path.is_file():
        raise WeightsError(
            f"'{name}' is missing: '{path}' does not exist; it enables {entry.enables}",
            hint=f"run 'latentsync models pull {name}'",
        )
    return path


def pull(
    names: Iterable[str],
    report: Report,
    *,
    source: Path | None = None,
    is_offline: bool = False,
    is_forced: bool = False,
) -> list[Pulled]:
    """Bring the files of the entries called `names` and of what they need; what is present stays.

    Args:
        source: a folder to copy from, for machines without a network.
        is_offline: nothing goes to the network, as with HF_HUB_OFFLINE.
        is_forced: files are fetched again.

    Raises:
        WeightsError: a name is unknown, or a file cannot be had, or is not what it should be.
        UsageError: the folder to copy from does not exist.
    """
    from huggingface_hub import constants

    entries = with_needs(names)
    report(Plan(tuple(_terms(entry) for entry in entries)))
    missing = [entry for entry in entries if is_forced or not is_present(entry)]
    copies = {} if source is None else _find_copies(missing, source)
    if source is None and missing and (is_offline or constants.HF_HUB_OFFLINE):
        raise _cannot_go_online(missing)
    _check_room(missing)
    return [_pull_one(entry, copies.get(entry.name), report, is_forced=is_forced) for entry in entries]


def survey() -> list[Listed]:
    """Every entry of the catalogue, and whether it is here. Reads no weights."""
    return [_list(entry) for entry in load_catalog().values()]


def verify(names: Iterable[str], report: Report) -> list[Verified]:
    """Hash the files of the entries called `names`, or of all that are here.

    Raises:
        WeightsError: a name is unknown, or a file cannot be read.
    """
    chosen = [find_entry(name) for name in names] or list(filter(is_present, load_catalog().values()))
    return [_verify(entry, report) for entry in chosen]


def remove(names: Iterable[str], report: Report) -> dict[Path, int]:
    """Delete the files of the entries called `names`, also from the hub's shared cache.

    Returns:
        What is gone, with the bytes that were freed.

    Raises:
        WeightsError: a name is unknown, or a file cannot be deleted.
    """
    freed_bytes: dict[Path, int] = {}
    for entry in list(map(find_entry, names)):
        with _locked(entry, report):
            own = _own_path(entry)
            found = [path for path in (own, part_of(own), _in_hub_cache(entry)) if path and path.is_file()]
            try:
                freed_bytes |= {path: _delete(path) for path in found}
            except OSError as error:
                raise cannot_write(own, error) from error
        with suppress(OSError):  # not empty
            own.parent.rmdir()
    return freed_bytes


def size_of(entry: WeightsEntry) -> str:
    """The size of the file of `entry` in words: "about 3.4 GB"."""
    count = entry.size_bytes or entry.about_bytes
    if count is None:
        return "size unknown"
    words = f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{in_megabytes(count)} MB"
    return words if entry.size_bytes else f"about {words}"


def _own_path(entry: WeightsEntry) -> Path:
    folder = torch_hub_folder() if entry.folder == "torch-hub" else cache_folder()
    return folder / entry.path


def _in_hub_cache(entry: WeightsEntry) -> Path | None:
    """The file in the hub's cache: at the catalogue's commit, or at another one with the very same bytes."""
    if entry.hub is None or entry.hub_file is None or entry.commit is None:
        return None
    snapshots = _repository(entry.hub) / "snapshots"
    pinned = snapshots / entry.commit / entry.hub_file
    if pinned.is_file():
        return pinned
    same = (path for path in snapshots.glob(f"*/{entry.hub_file}") if _stated_hash(path) == entry.sha256)
    return next(same, None) if entry.sha256 else None


def _repository(hub: str) -> Path:
    """The folder of a repository in the hub's cache."""
    return hub_cache_folder() / f"models--{hub.replace('/', '--')}"


def _sweep_incomplete(hub: str) -> None:
    """Delete what killed downloads have left: the hub's library never takes it up again."""
    for path in _repository(hub).glob("blobs/*.incomplete"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > DEAD_S:
                path.unlink()


def _stated_hash(path: Path) -> str | None:
    """The hash that the hub states for a file in its cache: there, a large file's name is its SHA-256."""
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _terms(entry: WeightsEntry) -> str:
    """What a person should know before a download."""
    return f"{entry.name}: {size_of(entry)}; licence {entry.licence}; commercial use: {entry.commercial_use}"


def _check_room(missing: Iterable[WeightsEntry]) -> None:
    """Refuse to begin what the disks cannot hold, as far as sizes are known."""
    needed_bytes: dict[Path, int] = {}
    for entry in missing:
        folder = hub_cache_folder() if entry.hub else _own_path(entry).parent
        needed_bytes[folder] = needed_bytes.get(folder, 0) + (entry.size_bytes or entry.about_bytes or 0)
    for folder, count in needed_bytes.items():
        if free_bytes(folder) < count + SPARE_BYTES:
            raise WeightsError(
                f"'{folder}': {in_megabytes(count)} MB are needed, {in_megabytes(free_bytes(folder))} MB are"
                " free",
                hint="free some space, or set HF_HOME and LATENTSYNC_CACHE to folders on another disk",
            )


def _pull_one(entry: WeightsEntry, copy: Path | None, report: Report, *, is_forced: bool) -> Pulled:
    with _locked(entry, report):
        present = path_of(entry)
        if present.is_file() and not is_forced:
            _check_size(entry, present, AGAIN.format(entry.name))
            return Pulled(entry.name, present, "present")
        own = _own_path(entry)
        try:
            if copy is not None:
                return Pulled(entry.name, own, "copied", _copy(entry, copy, own, report))
            if entry.hub is not None:
                try:
                    return _fetch_from_hub(entry, report, is_forced=is_forced)
                except WeightsError as error:
                    if entry.url is None:
                        raise
                    report(Note(f"{error}; trying {entry.url}", level="warning"))
            own.parent.mkdir(parents=True, exist_ok=True)
            return Pulled(entry.name, own, "fetched", download(entry, own, report))
        except OSError as error:
            raise cannot_write(own, error) from error


def _fetch_from_hub(entry: WeightsEntry, report: Report, *, is_forced: bool) -> Pulled:
    """Have the hub's library bring the file into its cache, and check what came."""
    from huggingface_hub import hf_hub_download

    report(Plan((f"fetching {entry.hub}/{entry.hub_file} at commit {entry.commit}",)))
    _sweep_incomplete(str(entry.hub))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would tear the bar apart
    try:
        path = Path(
            hf_hub_download(
                str(entry.hub),
                str(entry.hub_file),
                revision=entry.commit,
                force_download=is_forced,
                tqdm_class=_bar(PurePosixPath(entry.path).name, report),
            )
        )
    except Exception as error:  # the library has other transports, and so other errors, in each version
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise cannot_write(hub_cache_folder(), error) from error
        cause = error.__cause__ or error  # of "cannot find the file in the local cache"
        reason = plain(str(cause).strip().partition("\n")[0]) or type(cause).__name__
        raise WeightsError(f"'{entry.hub}/{entry.hub_file}': {reason}", hint=REACH) from error
    expected, found = entry.sha256 or _stated_hash(path), hash_file(path, report)
    if expected not in (None, found):
        _delete(path)
        raise WeightsError(
            f"'{path}' has the SHA-256 {found}, expected {expected}", hint="use another mirror"
        )
    return Pulled(entry.name, path, "fetched", found)


def _bar(label: str, report: Report) -> type[Any]:
    """A class of bars for the hub's library that report what they would draw."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            self.n = options.get("initial", 0)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            total = in_megabytes(self.total) if self.total else None
            report(Progress(label, in_megabytes(self.n), total, "MB"))

    return Bar


def _find_copies(missing: Sequence[WeightsEntry], source: Path) -> dict[str, Path]:
    """Find the file of each entry below `source`: by its path in our cache or on the hub, or its name."""
    if not source.is_dir():
        raise UsageError(f"--from '{source}': no such folder", hint="give the folder that the files are in")
    copies: dict[str, Path] = {}
    absent = []
    for entry in missing:
        names = filter(None, (entry.path, entry.hub_file, PurePosixPath(entry.path).name))
        found = next((source / name for name in names if (source / name).is_file()), None)
        if found is None:
            absent.append(f"{entry.path} ({entry.name}: {entry.enables})")
        elif found in copies.values():
            raise WeightsError(
                f"'{found}' matches two files: {entry.path} and another of that name",
                hint=f"put each at its path in the cache: {source / entry.path}",
            )
        else:
            copies[entry.name] = found
    if absent:
        raise WeightsError(
            f"'{source}' does not contain {', '.join(absent)}",
            hint="put each file there under that path or its bare name",
        )
    return copies


def _copy(entry: WeightsEntry, copy: Path, target: Path, report: Report) -> str:
    """Copy `copy` into our cache, checked like a download. Returns its hash."""
    hint = "copy it again: it is incomplete or a different file"
    _check_size(entry, copy, hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, total = sha256(), in_megabytes(copy.stat().st_size)
    with whole_or_nothing(target) as part:
        with open_regular(copy) as theirs, part.open("wb") as ours:
            while block := theirs.read(BLOCK_BYTES):
                ours.write(block)
                digest.update(block)
                report(Progress(f"copy {target.name}", in_megabytes(ours.tell()), total, "MB"))
        found = digest.hexdigest()
        if entry.sha256 not in (None, found):
            raise WeightsError(f"'{copy}' has the SHA-256 {found}, expected {entry.sha256}", hint=hint)
    return found


def _check_size(entry: WeightsEntry, path: Path, hint: str) -> None:
    size_bytes = path.stat().st_size
    if entry.size_bytes not in (None, size_bytes):
        raise WeightsError(f"'{path}' has {size_bytes} bytes, expected {entry.size_bytes}", hint=hint)


def hash_file(path: Path, report: Report = ignore) -> str:
    """The SHA-256 of the file at `path`, read in blocks.

    Raises:
        WeightsError: it cannot be read.
    """
    digest, done = sha256(), 0
    try:
        total = in_megabytes(path.stat().st_size)
        with open_regular(path) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                report(Progress(f"check {path.name}", in_megabytes(done), total, "MB"))
    except OSError as error:
        message = f"cannot read '{path}': {error.strerror}"
        raise WeightsError(message, hint="give a file that can be read") from error
    return digest.hexdigest()


def _list(entry: WeightsEntry) -> Listed:
    path = path_of(entry)
    if path.is_file():
        size_bytes = path.stat().st_size
        is_whole = entry.size_bytes in (None, size_bytes)
        state = "present" if is_whole else f"damaged, {size_bytes} bytes instead of {entry.size_bytes}"
        return Listed(entry, path, size_bytes, True, state)
    state = "missing, its pull is unfinished" if part_of(path).is_file() else "missing"
    return Listed(entry, None, entry.size_bytes or entry.about_bytes, entry.size_bytes is not None, state)


def _verify(entry: WeightsEntry, report: Report) -> Verified:
    path = path_of(entry)
    expected = entry.sha256 or _stated_hash(path)
    if not path.is_file():
        remedy = f"run 'latentsync models pull {entry.name}'"
        return Verified(entry.name, path, expected, None, "is missing", remedy)
    found = hash_file(path, report)
    is_right = expected in (None, found)
    fault = None if is_right else f"has the SHA-256 {found}, expected {expected}"
    return Verified(entry.name, path, expected, found, fault, AGAIN.format(entry.name))


def _delete(path: Path) -> int:
    """Delete a file, and the bytes behind it where it is a link of the hub's cache. Returns what it freed."""
    bytes_of = path.resolve()
    size_bytes = bytes_of.stat().st_size
    path.unlink()
    if bytes_of != path and bytes_of.parent.name == "blobs":
        snapshots = bytes_of.parent.parent / "snapshots"
        if any(other.resolve() == bytes_of for other in snapshots.rglob("*") if other.is_symlink()):
            return 0  # another commit has the same file
        bytes_of.unlink()
    return size_bytes


@contextmanager
def _locked(entry: WeightsEntry, report: Report) -> Iterator[None]:
    """Hold `entry` against every other process that would write or remove its file."""
    folder = cache_folder() / ".locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{entry.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(Note(f"another process is using '{entry.name}': waiting for it"))
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_go_online(missing: Sequence[WeightsEntry]) -> WeightsError:
    lacks = "; ".join(f"{entry.path} ({entry.name}: {entry.enables})" for entry in missing)
    names = " ".join(entry.name for entry in missing)
    return WeightsError(
        f"missing, and downloads are off (--offline or HF_HUB_OFFLINE): {lacks}",
        hint=f"copy the files from a machine with network access, then run "
        f"'latentsync models pull {names} --from DIR'",
    )
