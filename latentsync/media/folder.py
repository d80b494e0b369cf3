"""Finding videos: in a folder, in a list of paths, or one file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from latentsync.errors import MediaError
from latentsync.files import open_regular

SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
LIST_SUFFIX = ".txt"
_MOST_LIST_BYTES = 1 << 28  # a million paths take 0.1 GB


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to work on.

    videos       name within the folder, with / between its parts, and where the file is; sorted by name
    unreadable   name of a folder, or of a video that is no file, and why it cannot be read
    other_files  how many files are no videos by their suffix
    """

    videos: dict[str, Path] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    other_files: int = 0


def find_videos(path: Path) -> Found:
    """The videos in the folder `path`, in the list `path` (*.txt, one path per line), or `path` itself.

    Every folder is visited once, whatever links lead to it. A listed path is relative to the list's folder.

    Raises:
        MediaError: `path` does not exist or cannot be read.
    """
    try:
        if path.is_dir():
            os.listdir(path)  # a folder below that cannot be read is noted; this one stops the run
            return _found_in(path)
        if path.suffix.lower() == LIST_SUFFIX:
            return _checked(_listed(path))
        path.stat()
    except OSError as error:
        raise MediaError(
            f"'{path}': cannot be read ({error.strerror})", hint="give a folder of videos, or a list of them"
        ) from error
    return _checked({path.name: path})


def _found_in(folder: Path) -> Found:
    found: dict[str, Path] = {}
    unreadable: dict[str, str] = {}
    other_files = 0
    visited: set[tuple[int, int]] = set()
    ahead = [("", folder)]
    while ahead:
        name, path = ahead.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            inside = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            unreadable[name] = f"this folder cannot be read ({error.strerror})"
            continue
        for entry in reversed(inside):
            inner = f"{name}/{entry.name}" if name else entry.name
            if _is_folder(entry):
                ahead.append((inner, Path(entry.path)))
            elif _is_video(entry.name):
                found[inner] = Path(entry.path)
            else:
                other_files += 1
    checked = _checked(found)
    return Found(checked.videos, unreadable | checked.unreadable, other_files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_video(name: str) -> bool:
    return not name.startswith("._") and os.path.splitext(name)[1].lower() in SUFFIXES


def _checked(files: dict[str, Path]) -> Found:
    """`files` sorted, without those that are no files: opening a pipe would wait for ever."""
    videos: dict[str, Path] = {}
    unreadable: dict[str, str] = {}
    for name in sorted(files):
        try:
            if stat.S_ISREG(files[name].stat().st_mode):
                videos[name] = files[name]
            else:
                unreadable[name] = "is not a regular file"
        except OSError as error:
            unreadable[name] = error.strerror or "cannot be read"
    return Found(videos, unreadable)


def _listed(file: Path) -> dict[str, Path]:
    """The paths of a list, named by their whole path: whatever else is listed, a name stays and is unique."""
    folder = Path(os.path.abspath(file.parent))
    with open_regular(file, most_bytes=_MOST_LIST_BYTES) as stream:
        content = stream.read()
    if b"\0" in content:
        raise MediaError(f"'{file}': is not a text file", hint="give a list with one path per line")
    lines = [line.rstrip("\r") for line in os.fsdecode(content).split("\n")]
    paths = [Path(os.path.normpath(folder / line)) for line in lines if line]
    return {path.relative_to(path.anchor).as_posix(): path for path in paths}
