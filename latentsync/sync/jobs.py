"""Reads the jobs of a batch: from a CSV, from lines of JSON, or from a folder of videos and sound files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from latentsync.errors import LatentSyncError, MediaError, UsageError
from latentsync.events import Note, Report
from latentsync.media.folder import SUFFIXES
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.job import SyncJob
from latentsync.sync.options import SyncOptions, choose_recipe, make_job
from latentsync.sync.rows import csv_rows, read_list
from latentsync.weights.models import find_model

INPUTS = ("video", "speech", "output")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SOUNDS = (".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac")
_MOST_BYTES = 1 << 28
_WHOLE_RUN = ("dry_run",)  # options that a single row cannot have


@with_config(ConfigDict(extra="forbid", coerce_numbers_to_str=True))
class _Row(SyncOptions, TypedDict, total=False):
    """A line of the list: the options of `sync`, and these."""

    video: str
    speech: str
    output: str
    model: str


_ROW = TypeAdapter(_Row)
COLUMNS = tuple(name for name in _Row.__annotations__ if name not in _WHOLE_RUN)


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One job of a batch. `number` is its line in the list, `origin` that line for a message."""

    number: int
    origin: str
    job: SyncJob
    recipe: SyncRecipe


def read_jobs(
    source: Path, out: Path, defaults: SyncOptions, *, model: str, report: Report
) -> list[BatchRow]:
    """Read the jobs in `source`: *.csv with a header, *.jsonl with one object per line, or a folder.

    Columns are the flags, with or without dashes; a cell wins over `defaults`, an empty one leaves them.
    Paths are relative to the folder of the list, and outputs to `out`; without one, NAME_synced.mp4. In a
    folder, a video or picture belongs to the sound file of the same name.

    Raises:
        MediaError: the list cannot be read.
        UsageError: there is no job, a column is unknown, or a cell cannot be used: each is reported.
    """
    rows = list(_from_folder(source, report) if source.is_dir() else _from_file(source))
    if not rows:
        remedy = "put a sound file of the same name beside each video" if source.is_dir() else "add a line"
        raise UsageError(f"'{source}': has no job", hint=remedy)
    folder = source if source.is_dir() else source.parent
    found: list[BatchRow] = []
    faults: list[LatentSyncError] = []
    for number, cells in rows:
        origin = f"'{source.name}', row {number}"
        try:
            found.append(_row(number, origin, cells, folder, out, defaults, model))
        except LatentSyncError as error:
            # All rows are checked first, so that one run shows every mistake in the list.
            faults.append(type(error)(f"{origin}: {error}", hint=error.hint))
    faults += _given_twice(found)
    if len(faults) == 1:
        raise faults[0]
    for fault in faults:
        report(Note(f"{fault} ({fault.hint})", "warning"))
    if faults:
        raise UsageError(
            f"'{source}': {len(faults)} of {len(rows)} rows cannot be used, nothing was started",
            hint="correct the rows that are named above",
        )
    return found


def _row(
    number: int,
    origin: str,
    cells: Mapping[str, object],
    folder: Path,
    out: Path,
    defaults: SyncOptions,
    model: str,
) -> BatchRow:
    values = {**defaults, **_checked(cells)}
    for name in ("video", "speech"):
        if not values.get(name) and (name == "video" or not values.get("cast")):
            raise UsageError(f"'{name}' is missing", hint=f"fill the column '{name}' with a path")
    for name in ("video", "speech", "mask", "cast"):
        # A path of the command line, unlike one of the list, is relative to the working directory.
        if isinstance(values.get(name), str | Path) and values[name] and name in cells:
            values[name] = folder / values[name]
    if isinstance(values.get("cast"), list) and "cast" in cells:
        values["cast"] = [(who, folder / speech, from_s) for who, speech, from_s in values["cast"]]
    video = Path(values["video"]).absolute()
    speech = Path(values["speech"]).absolute() if values.get("speech") else None
    output = (out / values.get("output", f"{video.stem}_synced.mp4")).absolute()
    if values.get("report") is not None:
        values["report"] = (out / values["report"]).absolute()
    named = values.get("model", model)
    options = SyncOptions(**{name: values[name] for name in SyncOptions.__annotations__ if name in values})  # type: ignore[typeddict-item]
    recipe = choose_recipe(options)
    # Only looked up, so that a missing model is found before hours of work.
    find_model(named, resolution=recipe.sampling.resolution)
    return BatchRow(number, origin, replace(make_job(video, speech, output, options), model=named), recipe)


def _checked(cells: Mapping[str, object]) -> dict[str, Any]:
    """The cells of one row by option, with the types that options have."""
    for name in cells:
        if name not in COLUMNS:
            raise _unknown("", name)
    values: dict[str, Any] = dict(cells)
    if isinstance(values.get("settings"), str):
        values["settings"] = shlex.split(values["settings"])
    try:
        return dict(_ROW.validate_python(values))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        column = str(fault["loc"][0])
        expected = fault["msg"].removeprefix("Input should be ")
        raise UsageError(
            f"{column} = {values[column]!r}: expected {expected}", hint="see the options in docs/sync.md"
        ) from error


def _unknown(origin: str, name: str) -> UsageError:
    near = get_close_matches(name, COLUMNS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(COLUMNS)}"
    return UsageError(f"{origin}no option is called '{name}'", hint=hint)


def _from_file(source: Path) -> Iterator[tuple[int, dict[str, object]]]:
    text = read_list(source, most_bytes=_MOST_BYTES, hint="give a .csv, a .jsonl, or a folder")
    if source.suffix.lower() in (".jsonl", ".ndjson"):
        return _from_json_lines(source, text)
    if source.suffix.lower() == ".csv":
        return _from_csv(source, text)
    raise UsageError(
        f"'{source}': is neither a list of jobs nor a folder", hint="give a .csv, a .jsonl, or a folder"
    )


def _from_csv(source: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    def check(header: list[str]) -> None:
        for name in header:
            if name not in COLUMNS:
                raise _unknown(f"'{source}': ", name)

    for number, cells in csv_rows(source, text, column_of=_option, check=check):
        yield number, {name: cell for name, cell in cells.items() if cell}


def _from_json_lines(source: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MediaError(
                f"'{source}', line {number}: is not JSON ({error})", hint="write one object per line"
            ) from error
        if not isinstance(values, dict):
            raise MediaError(f"'{source}', line {number}: is no object", hint="write one object per line")
        yield number, {_option(name): value for name, value in values.items() if value is not None}


def _from_folder(folder: Path, report: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """Each video or picture with the sound file of the same name."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sounds = {path.stem: path.name for path in files if path.suffix.lower() in SOUNDS}
    videos = [path for path in files if path.suffix.lower() in (*SUFFIXES, *PICTURES)]
    for number, path in enumerate(videos, 1):
        if path.stem in sounds:
            yield number, {"video": path.name, "speech": sounds[path.stem]}
        else:
            report(Note(f"'{path.name}': left out, no sound file has its name", "warning"))


def _option(name: str) -> str:
    """The option that a column stands for.

    >>> _option("--audio-track"), _option(" Set ")
    ('audio_track', 'settings')
    """
    option = name.strip().lower().lstrip("-").replace("-", "_")
    return "settings" if option == "set" else option


def _given_twice(rows: list[BatchRow]) -> list[LatentSyncError]:
    first: dict[Path | None, BatchRow] = {}
    faults: list[LatentSyncError] = []
    for row in rows:
        other = first.setdefault(row.job.output, row)
        if other is not row:
            faults.append(
                UsageError(
                    f"{row.origin}: '{row.job.output}' is also the output of row {other.number}",
                    hint="give each row its own in the column 'output'",
                )
            )
    return faults
