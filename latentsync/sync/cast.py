"""Several people in one video, each with speech of their own: who says what from when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from latentsync.errors import LatentSyncError, UsageError
from latentsync.faces.choice import FaceChoice, parse_face_choice
from latentsync.media.sound import lead_s, read_audio
from latentsync.rates import AUDIO_HZ
from latentsync.sync.rows import csv_rows, read_list
from latentsync.times import seconds_from
from latentsync.types import AudioTrack

COLUMNS = ("who", "speech", "from")
_MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Line:
    """From `from_s` of the result on, `who` says what is in `speech`. `origin` names the row in messages."""

    origin: str
    who: str
    speech: Path
    from_s: float


@dataclass(frozen=True, slots=True)
class Part:
    """All that one person says, on the clock of the result, with silence between."""

    who: str
    face: FaceChoice
    speech: AudioTrack
    origin: str


Cast = str | Path | Sequence[tuple[str, str | Path, float | str]]


def read_cast(cast: Cast) -> tuple[Line, ...]:
    """Read a CSV with the columns who, speech and from, or (who, speech, from) triples.

    Speech files of a CSV are relative to its folder.

    Raises:
        MediaError: the file cannot be read.
        UsageError: a column is missing or unknown, or a row cannot be used.
    """
    name = f"'{Path(cast).name}'" if isinstance(cast, str | Path) else "cast"
    lines, faults = [], []
    for number, cells in _rows(cast, name):
        try:
            lines.append(_line(f"{name}, row {number}", cells, cast))
        except UsageError as error:
            faults.append((number, error))
    if faults:
        number, first = faults[0]
        others = ", ".join(str(number) for number, _ in faults[1:])
        also = f" (rows {others} cannot be used either)" if others else ""
        raise UsageError(f"{name}, row {number}: {first}{also}", hint=first.hint)
    if not lines:
        raise UsageError(f"{name}: nobody says anything", hint="add a row such as: left,anna.wav,0")
    return tuple(lines)


def _line(origin: str, cells: dict[str, str | Path | float], cast: Cast) -> Line:
    who, speech = str(cells.get("who", "")).strip(), str(cells.get("speech", "")).strip()
    if not who or not speech:
        missing = "speech" if who else "who"
        raise UsageError(f"'{missing}' is missing", hint="write a face and a sound file: left,anna.wav,0")
    parse_face_choice(who)
    start = cells.get("from", 0.0)
    from_s = seconds_from("from", start if isinstance(start, int | float) else str(start).strip() or "0")
    if not from_s >= 0:  # also not a number
        raise UsageError(f"from {from_s:g} s: is before the start", hint="write 0 or later")
    folder = Path(cast).parent if isinstance(cast, str | Path) else Path()
    return Line(origin, who, folder / speech, from_s)


def _rows(cast: Cast, name: str) -> Iterator[tuple[int, dict[str, str | Path | float]]]:
    if not isinstance(cast, str | Path):
        for number, row in enumerate(cast, 1):
            yield number, dict(zip(COLUMNS, row, strict=False))
        return
    source = Path(cast)
    text = read_list(source, most_bytes=_MOST_BYTES, hint="give a .csv with the columns who,speech,from")
    rows = csv_rows(
        source, text, column_of=lambda name: name.strip().lower(), check=partial(_check_header, name)
    )
    for number, cells in rows:
        yield number, dict(cells)


def _check_header(name: str, header: list[str]) -> None:
    for column in header:
        if column not in COLUMNS:
            raise UsageError(f"{name}: unknown column '{column}'", hint=f"use {', '.join(COLUMNS)}")
    for column in ("who", "speech"):
        if column not in header:
            raise UsageError(f"{name}: has no column '{column}'", hint=f"use {', '.join(COLUMNS)}")


def read_parts(lines: Sequence[Line], *, track: int | None = None) -> tuple[Part, ...]:
    """Read all speech, and lay what each person says on one clock.

    Raises:
        MediaError: a file is missing or has no sound.
        UsageError: two rows of one person overlap.
    """
    spoken: dict[str, list[tuple[Line, AudioTrack]]] = {}
    for line in lines:
        try:
            speech = read_audio(line.speech, start_s=-lead_s(line.speech, track=track), track=track)
        except LatentSyncError as error:
            raise type(error)(f"{line.origin}: {error}", hint=error.hint) from error
        spoken.setdefault(line.who.lower(), []).append((line, speech))
    return tuple(_part(pieces) for pieces in spoken.values())


def _part(pieces: list[tuple[Line, AudioTrack]]) -> Part:
    pieces = sorted(pieces, key=lambda piece: piece[0].from_s)
    for (before, speech), (line, _) in pairwise(pieces):
        end_s = before.from_s + speech.duration_s
        if line.from_s < end_s:
            raise UsageError(
                f"{line.origin}: '{line.who}' begins at {line.from_s:.2f} s, but {before.origin} lasts until"
                f" {end_s:.2f} s",
                hint="let one person say one thing at a time",
            )
    last, speech = pieces[-1]
    samples = np.zeros(round(last.from_s * AUDIO_HZ) + len(speech.samples), np.float32)
    for line, speech in pieces:
        first = round(line.from_s * AUDIO_HZ)
        samples[first : first + len(speech.samples)] = speech.samples
    return Part(last.who, parse_face_choice(last.who), AudioTrack(samples, AUDIO_HZ), pieces[0][0].origin)


def mixed(parts: Sequence[Part]) -> AudioTrack:
    """What all say together."""
    samples = np.zeros(max(len(part.speech.samples) for part in parts), np.float32)
    for part in parts:
        samples[: len(part.speech.samples)] += part.speech.samples
    return AudioTrack(np.clip(samples, -1, 1), AUDIO_HZ)
