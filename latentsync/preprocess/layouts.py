"""Finds the sources of a raw folder in the layout that its data set is distributed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from latentsync.errors import MediaError
from latentsync.manifest import source_name
from latentsync.media.folder import Found, find_videos
from latentsync.preprocess.step import Region, Source

LayoutName = Literal["folder", "voxceleb2", "hdtf"]
ValueT = TypeVar("ValueT")
MARGIN = 0.5  # of the side of HDTF's window, around it: the aligned crop takes in more than its face
_TIMES = "_annotion_time.txt"  # spelled so by its authors
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FoundSources:
    """What there is to work on.

    sources      by name, sorted
    unreadable   name of a folder or video, and why it cannot be read
    other_files  how many files are not used
    notes        what a person should know, a line each
    """

    sources: dict[str, Source] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    other_files: int = 0
    notes: tuple[str, ...] = ()


def find_sources(raw: Path, layout: LayoutName) -> FoundSources:
    """The sources in `raw`: a folder of videos, a list of paths (*.txt), or one video.

    Args:
        layout: "folder": videos with their own sound; "voxceleb2": pictures below a folder mp4, and their
            sound below the folder aac beside it; "hdtf": whole videos, and HDTF's lists of clips of them.

    Raises:
        MediaError: `raw` cannot be read, is in another layout, or one of its lists is damaged.
    """
    found = find_videos(raw)
    sources = {
        (name := source_name(Path(video), Path())): Source(path, name) for video, path in found.videos.items()
    }
    unreadable = {source_name(Path(name), Path()): why for name, why in found.unreadable.items()}
    plain = FoundSources(sources, unreadable, found.other_files)
    return _LAYOUTS[layout](raw, found, plain)


def _as_folder(raw: Path, found: Found, plain: FoundSources) -> FoundSources:
    apart = [path for path in islice(found.videos.values(), _SHOWN) if _sound_apart(path).is_file()]
    if not apart:
        return plain
    note = f"the sound of '{apart[0]}' lies in '{_sound_apart(apart[0])}': add --layout voxceleb2"
    return replace(plain, notes=(note,))


def _as_voxceleb2(raw: Path, found: Found, plain: FoundSources) -> FoundSources:
    """VoxCeleb2 as distributed: mp4/id00017/01dfn2spqyE/00001.mp4 and aac/id00017/01dfn2spqyE/00001.m4a."""
    if not any("mp4" in path.parts[:-1] for path in map(Path.absolute, found.videos.values())):
        raise MediaError(
            f"'{raw}' is not in the layout of VoxCeleb2: no video is below a folder mp4",
            hint="expected are mp4/ID/VIDEO/CLIP.mp4 and aac/ID/VIDEO/CLIP.m4a; or omit --layout",
        )
    sources = {
        name: replace(source, sound=_sound_apart(source.path)) for name, source in plain.sources.items()
    }
    sounds = sum(source.sound is not None and source.sound.is_file() for source in sources.values())
    notes = (f"{len(sources) - sounds} of {len(sources)} videos have no file in aac/",)
    return replace(plain, sources=sources, notes=notes if sounds < len(sources) else ())


def _sound_apart(path: Path) -> Path:
    """Where VoxCeleb2 has the sound of the video at `path`.

    >>> _sound_apart(Path("/dev/mp4/id00017/a/1.mp4")).as_posix()
    '/dev/aac/id00017/a/1.m4a'
    """
    parts = list(path.absolute().parts)
    if "mp4" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("mp4", 1)] = "aac"
    return Path(*parts).with_suffix(".m4a")


def _as_hdtf(raw: Path, found: Found, plain: FoundSources) -> FoundSources:
    """HDTF: RD_annotion_time.txt and so on name clips of whole videos, which lie anywhere in `raw`.

    A clip is named as HDTF's authors do: Radio11_0.mp4 is the first of Radio11.mp4.
    """
    lists = sorted(raw.rglob(f"*{_TIMES}")) if raw.is_dir() else []
    if not lists:
        raise MediaError(
            f"'{raw}' has none of HDTF's lists, such as RD{_TIMES}",
            hint="copy the folder HDTF_dataset of https://github.com/MRzzm/HDTF into it, or omit --layout",
        )
    videos = {Path(name).stem: path for name, path in found.videos.items()}
    sources: dict[str, Source] = {}
    missing: list[str] = []
    for file in lists:
        subset = file.name.removesuffix(_TIMES)
        windows = _rows(file.with_name(f"{subset}_crop_wh.txt"), _numbers(4), is_optional=True)
        heights = _rows(file.with_name(f"{subset}_resolution.txt"), _numbers(1), is_optional=True)
        for video, spans in _rows(file, _spans).items():
            stem = Path(video).stem
            for index, (start_s, end_s) in enumerate(spans):
                name = f"{stem}_{index}.mp4"
                if stem not in videos:
                    missing.append(name)
                    continue
                sources[name] = Source(
                    videos[stem],
                    name,
                    start_s=start_s,
                    end_s=end_s,
                    region=_region(windows.get(name), heights.get(video)),
                    # Radio11 and Radio12 may be two people; AmyKlobuchar0 and AmyKlobuchar1 are one.
                    person=stem if subset == "RD" else stem.rstrip("0123456789"),
                )
    used = {source.path for source in sources.values()}
    notes = []
    if missing:
        names = ", ".join(missing[:_SHOWN])
        notes.append(
            f"{len(missing)} of {len(missing) + len(sources)} listed clips have no video here: {names}"
        )
    if len(used) < len(found.videos):
        notes.append(f"{len(found.videos) - len(used)} videos are in no list and are not used")
    return replace(plain, sources=dict(sorted(sources.items())), notes=tuple(notes))


_LAYOUTS: dict[LayoutName, Callable[[Path, Found, FoundSources], FoundSources]] = {
    "folder": _as_folder,
    "voxceleb2": _as_voxceleb2,
    "hdtf": _as_hdtf,
}


def _rows(
    file: Path, parse: Callable[[list[str]], ValueT], *, is_optional: bool = False
) -> dict[str, ValueT]:
    """The lines of one of HDTF's lists: a name, and what `parse` makes of the rest."""
    if is_optional and not file.is_file():
        return {}
    rows: dict[str, ValueT] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise MediaError(f"'{file}' cannot be read ({error})", hint="fetch HDTF's list again") from error
    for number, line in enumerate(lines, 1):
        name, *rest = line.split() or [""]
        try:
            if name:
                rows[name] = parse(rest)
        except ValueError as error:
            raise MediaError(
                f"'{file}', line {number}: {error}", hint="correct or remove this line"
            ) from error
    return rows


def _spans(words: Iterable[str]) -> list[tuple[float, float]]:
    """The seconds of the clips: 00:30-01:00 01:30-02:30."""
    spans = []
    for word in words:
        first, _, last = word.partition("-")
        start_s, end_s = _seconds(first), _seconds(last)
        if end_s <= start_s:
            raise ValueError(f"'{word}' is empty")
        spans.append((start_s, end_s))
    return spans


def _seconds(clock: str) -> float:
    matched = _CLOCK.fullmatch(clock)
    if matched is None:
        raise ValueError(f"'{clock}' is not a time such as 01:30")
    hours, minutes, seconds = matched.groups(default="0")
    return int(hours) * 3600.0 + int(minutes) * 60 + int(seconds)


def _numbers(count: int) -> Callable[[list[str]], tuple[float, ...]]:
    """Reads as many numbers; a line with other ones, which HDTF's lists have, gives none."""

    def read(words: list[str]) -> tuple[float, ...]:
        return tuple(map(float, words)) if len(words) == count else ()

    return read


def _region(window: tuple[float, ...] | None, height: tuple[float, ...] | None) -> Region | None:
    """HDTF's window around the face with a margin, in frame heights; None where its lists do not say.

    Args:
        window: left, width, top, height in pixels.
        height: of the frames that these pixels are of.
    """
    if not window or not height or height[0] <= 0 or min(window[1], window[3]) <= 0:
        return None
    left, width, top, tall = (number / height[0] for number in window)
    return Region(
        left=left - MARGIN * width,
        top=top - MARGIN * tall,
        width=(1 + 2 * MARGIN) * width,
        height=(1 + 2 * MARGIN) * tall,
    )
