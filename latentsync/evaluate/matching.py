"""Puts a generated video beside its input: same times, place and length, and what is heard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.evaluate.pairs import Pair
from latentsync.evaluate.prepare import (
    Faces,
    Prepared,
    Unfit,
    frames_of_speech,
    hear,
    is_same_place,
    prepare,
    refuse_silent,
)
from latentsync.metrics.metric import ScoredClip
from latentsync.preprocess.step import CLIP_FPS, SAMPLES_PER_FRAME
from latentsync.recipe.evaluate import Preparing


@dataclass(slots=True)
class Source:
    """The real side of a pair, read when it is first needed and then held."""

    pair: Pair
    preparing: Preparing
    faces: Faces
    _real: Prepared | Unfit | None = None
    _speaker: Prepared | Unfit | None = None

    def real(self) -> Prepared:
        """The input video.

        Raises:
            Unfit: it is none, or shows no face.
        """
        if self._real is None:
            self._real = self._prepared(self.pair.video)
        if isinstance(self._real, Unfit):
            raise self._real
        return self._real

    def speaker_points(self) -> NDArray[np.float32] | None:
        """Where the lips of the speaker were, in crops of their own video; None where nobody is seen."""
        if self.pair.speaker is None or self.pair.speaker == self.pair.video:
            return None
        if self._speaker is None:
            self._speaker = self._prepared(self.pair.speaker)
        return None if isinstance(self._speaker, Unfit) else self._speaker.points

    def _prepared(self, video: Path) -> Prepared | Unfit:
        try:
            return prepare(video, self.preparing, self.faces, longest_s=self.pair.length_s)
        except Unfit as unfit:
            return unfit


@dataclass(frozen=True, slots=True)
class Matched:
    """A clip as metrics see it, from these `rows` of the prepared videos; `notes` say what was done."""

    clip: ScoredClip
    notes: list[str]
    rows: slice


def real_clip(source: Source) -> Matched:
    """The real video with its own sound; it is no reference for itself."""
    pair, preparing = source.pair, source.preparing
    real = source.real()
    is_own = pair.sound == pair.video
    heard = hear(pair.sound, video=real.info if is_own else None, frames=real.frames)
    speech = refuse_silent(heard, silent_db=preparing.silent_db, whose=pair.sound.name)
    rows = _rows(real.first, min(real.frames, frames_of_speech(speech)), preparing)
    _refuse_faceless(real, rows, preparing, pair.video.name)
    clip = ScoredClip(
        name=f"{pair.setting}/{pair.name}",
        made_u8=real.crops_u8[rows],
        speech=_during(speech, rows),
        made_points=real.points[rows],
    )
    return Matched(clip, _time_notes(real, None, rows), rows)


def made_clip(source: Source, path: Path) -> Matched:
    """A method's video beside its input, cut to what both show and what is heard."""
    pair, preparing, real = source.pair, source.preparing, source.real()
    made, notes = _beside(path, real, source)
    heard = hear(path, video=made.info, frames=made.frames)
    if heard is None:
        notes.append("no sound of its own: the pair's speech is used")
        is_video = pair.speech == pair.video
        heard = hear(pair.speech, video=real.info if is_video else None, frames=made.frames)
    speech = refuse_silent(heard, silent_db=preparing.silent_db, whose=path.name)
    last = min(real.frames, made.frames, frames_of_speech(speech))
    rows = _rows(max(real.first, made.first), last, preparing)
    _refuse_faceless(real, rows, preparing, pair.video.name)
    _refuse_faceless(made, rows, preparing, path.name)
    is_cross = pair.setting == "cross"
    points = real.points[rows]
    clip = ScoredClip(
        name=f"{pair.setting}/{pair.name}",
        made_u8=made.crops_u8[rows],
        real_u8=None if is_cross else real.crops_u8[rows],
        speech=_during(speech, rows),
        made_points=made.points[rows],
        real_points=None if is_cross else points,
        speaker_points=_speaker_points(source, rows) if is_cross else points,
        input_points=points,
        input_u8=real.crops_u8[rows],
    )
    return Matched(clip, notes + _time_notes(made, real, rows), rows)


def _beside(path: Path, real: Prepared, source: Source) -> tuple[Prepared, list[str]]:
    """The generated video, cut where the real face is if frames are of one size and the face is there."""
    preparing, faces = source.preparing, source.faces
    limit_s = real.frames / CLIP_FPS
    made = prepare(path, preparing, faces, longest_s=limit_s, like=real)
    size, real_size = ((one.info.width, one.info.height) for one in (made, real))
    if size == real_size and is_same_place(made, real):
        return made, []
    why = "its face lies elsewhere in the frame"
    if size != real_size:
        why = f"{size[0]}x{size[1]} px, the input {real_size[0]}x{real_size[1]}"
    own = prepare(path, preparing, faces, longest_s=limit_s)
    return own, [f"{why}: cut around its own face"]


def _rows(first: int, last: int, preparing: Preparing) -> slice:
    if last - first < math.ceil(preparing.min_s * CLIP_FPS):
        used_s = max(0, last - first) / CLIP_FPS
        raise Unfit("too_short", f"{used_s:.2f} s of face and speech together, under {preparing.min_s:g} s")
    return slice(first, last)


def _refuse_faceless(prepared: Prepared, rows: slice, preparing: Preparing, whose: str) -> None:
    share = float(prepared.seen[rows].mean())
    if share < preparing.min_share:
        raise Unfit(
            "no_face", f"'{whose}': a face in {share:.0%} of the frames, under {preparing.min_share:.0%}"
        )


def _during(speech: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
    return speech[rows.start * SAMPLES_PER_FRAME : rows.stop * SAMPLES_PER_FRAME]


def _speaker_points(source: Source, rows: slice) -> NDArray[np.float32] | None:
    """The speaker's points at the same times as `rows`; NaN past the end of the speaker's video."""
    points = source.speaker_points()
    if points is None:
        return None
    taken = points[rows]
    padding = np.full((rows.stop - rows.start - len(taken), 68, 2), np.nan, np.float32)
    return np.concatenate([taken, padding])


def _time_notes(made: Prepared, real: Prepared | None, rows: slice) -> list[str]:
    """What was done to match a video by time."""
    notes = []
    if made.info.is_variable or abs(float(made.info.fps) - CLIP_FPS) > 0.01:
        shown = "variable frame rate" if made.info.is_variable else f"{float(made.info.fps):.4g} fps"
        notes.append(f"{shown}: shown at 25 fps by time")
    used_s = (rows.stop - rows.start) / CLIP_FPS
    lengths = [made.info.duration_s] if real is None else [made.info.duration_s, real.info.duration_s]
    if any(abs(length - used_s) > 1.5 / CLIP_FPS for length in lengths):
        of = " and ".join(f"{length:.2f} s" for length in lengths)
        notes.append(f"{used_s:.2f} s compared, from {rows.start / CLIP_FPS:.2f} s on, of {of}")
    return notes
