"""Who speaks when: the lips of every face are compared with the video's own sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from latentsync.faces.align import affine_of, align
from latentsync.faces.choice import Seen, Turn
from latentsync.faces.everyone import FaceTrack
from latentsync.metrics.sync import BundledJudge
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.types import Frame, FrameImage

CROP_PX = 128
CHUNK_FRAMES = 200  # whose crops are held for each face
SHIFTS = 15  # frames at 25 fps either way, at which lips and sound should fit worse
LATE_FRAMES = 4  # by which sound and pictures of a file may be apart
FITS = 0.2  # confidence below which a face does not fit; a far audience reaches 0.17 on average, speakers 0.4
# Of the means over time, at the right shift and at all others. Ours: 0, 3, 6 and 12 were tried on mixtures.
SIGMA_FRAMES, OTHER_SIGMA_FRAMES = 6.0, 12.0
QUIET_DB, DEPTH_DB = -50.0, 30.0  # below this, or so far below the loudest, nobody speaks


@dataclass(frozen=True, slots=True)
class Rules:
    """When lips and sound fit, in the judge's confidence, and how lasting a change must be.

    least   confidence below which a face does not fit
    first   what the first choice of a shot costs: a sum of confidences over frames at 25 fps
    change  what each change within it costs
    """

    least: float = FITS
    first: float = 1.0
    change: float = 6.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well each face fits the sound.

    shots    the number of the shot of each frame of the source
    times_s  when each is shown, from the first one on
    face_tracks   the faces, by their numbers
    fits     (ticks,) confidence of each face at 25 fps, NaN where it is not seen
    is_loud  (ticks,) whether there is sound that may be speech
    """

    shots: list[int]
    times_s: list[float]
    face_tracks: dict[int, FaceTrack]
    fits: dict[int, NDArray[np.float64]]
    is_loud: NDArray[np.bool_]

    def tick(self, frame: int) -> int:
        """The tick at 25 fps at which a frame of the source is shown."""
        return min(len(self.is_loud) - 1, round(self.times_s[frame] * VIDEO_FPS))


def gather(
    followed: Iterable[tuple[Frame, int, list[FaceTrack]]], samples: NDArray[np.float32], judge: BundledJudge
) -> Evidence:
    """Compare the lips of everybody with the sound.

    Args:
        followed: what `faces.everyone.follow_everyone` gives.
        samples: (n,) 16 kHz sound that begins with the first frame.
    """
    shots: list[int] = []
    times_s: list[float] = []
    face_tracks: dict[int, FaceTrack] = {}
    lips: dict[int, _Lips] = {}
    ticks = 0
    for frame, shot, seen in followed:
        shots.append(shot)
        times_s.append(frame.time_s)
        now = range(ticks, max(ticks, round(frame.time_s * VIDEO_FPS) + 1))
        ticks = now.stop
        for face_track in seen:
            face_tracks[face_track.number] = face_track
            if now:
                crop = align(frame.picture, affine_of(face_track.last, CROP_PX))
                lips.setdefault(face_track.number, _Lips(judge)).add(now, crop)
    sound = judge.embed_speech(samples)
    fits = {number: found.fits(sound, ticks) for number, found in lips.items()}
    return Evidence(shots, times_s, face_tracks, fits, _is_loud(samples, ticks))


def decide(evidence: Evidence, rules: Rules | None = None) -> tuple[dict[int, Seen], tuple[Turn, ...]]:
    """Who is chosen in each frame of the source, by its number, and the turns that this makes.

    In each shot the sequence of faces, and of nobody, is taken whose confidences above `rules.least` sum up
    to most, with a price on each change. Where nobody makes a sound, nothing speaks for a change: the last
    one stays.
    """
    rules = rules or Rules()
    chosen: dict[int, Seen] = {}
    turns: list[Turn] = []
    for _, shot in groupby(range(len(evidence.shots)), key=evidence.shots.__getitem__):
        frames = list(shot)
        people = _best_path(evidence, frames, rules)
        for frame, person in zip(frames, people, strict=True):
            time_s = evidence.times_s[frame]
            if not turns or turns[-1].person != person or frame == frames[0]:
                turns.append(Turn(time_s, time_s, person))
            until_s = evidence.times_s[frame + 1] if frame + 1 < len(evidence.shots) else time_s
            turns[-1] = Turn(turns[-1].start_s, until_s, person)
            points = evidence.face_tracks[person].points.get(frame) if person else None
            chosen[frame] = Seen(points, len(turns))
    return chosen, tuple(turns)


def _best_path(evidence: Evidence, frames: Sequence[int], rules: Rules) -> list[int]:
    """The number of the face, 0 for nobody, in each frame of one shot."""
    ticks = [evidence.tick(frame) for frame in frames]
    shot = evidence.shots[frames[0]]
    people = [0, *(number for number, face_track in evidence.face_tracks.items() if face_track.shot == shot)]
    gains = np.zeros((len(frames), len(people)))
    steps = np.diff([ticks[0] - 1, *ticks])  # ticks that pass: 0 between frames of a faster video
    for column, number in enumerate(people[1:], 1):
        fit = evidence.fits.get(number)
        points = evidence.face_tracks[number].points
        span = range(next(iter(points)), next(reversed(points)) + 1)
        for row, frame in enumerate(frames):
            if frame not in span:
                gains[row, column] = -np.inf
            elif fit is not None and evidence.is_loud[ticks[row]] and not np.isnan(fit[ticks[row]]):
                gains[row, column] = steps[row] * (fit[ticks[row]] - rules.least)
    gains[0, 1:] -= rules.first
    best = gains[0].copy()
    came_from = np.zeros(gains.shape, int)
    for row in range(1, len(frames)):
        leader = int(best.argmax())
        stays = best >= best[leader] - rules.change
        came_from[row] = np.where(stays, np.arange(len(people)), leader)
        best = np.where(stays, best, best[leader] - rules.change) + gains[row]
    path = [int(best.argmax())]
    for row in range(len(frames) - 1, 0, -1):
        path.append(int(came_from[row, path[-1]]))
    return [people[column] for column in reversed(path)]


class _Lips:
    """The lips of one face as vectors, one for each window of frames at 25 fps."""

    def __init__(self, judge: BundledJudge) -> None:
        self._judge = judge
        self._window = judge.syncnet.config.frames
        self._runs: list[_Run] = []

    def add(self, ticks: range, crop_u8: FrameImage) -> None:
        """Take the crop that is shown at these ticks."""
        if not self._runs or self._runs[-1].end != ticks.start:
            self._finish()
            self._runs.append(_Run(ticks.start, ticks.start))
        run = self._runs[-1]
        run.crops += [crop_u8] * len(ticks)
        run.end = ticks.stop
        if len(run.crops) >= CHUNK_FRAMES + self._window:
            self._embed(run)

    def fits(self, sound: torch.Tensor, ticks: int) -> NDArray[np.float64]:
        """The confidence (ticks,), NaN where the face is not seen for long enough."""
        self._finish()
        fits = np.full(ticks, np.nan)
        for run in self._runs:
            if run.vectors:
                first = run.first + self._window // 2
                found = _confidence(torch.cat(run.vectors), sound, run.first)
                fits[first : first + len(found)] = found[: ticks - first]
                # The frames at either end lie in the first and the last window.
                fits[run.first : first] = found[0]
                fits[first + len(found) : run.end] = found[-1]
        return fits

    def _finish(self) -> None:
        if self._runs:
            if len(self._runs[-1].crops) >= self._window:
                self._embed(self._runs[-1])
            self._runs[-1].crops = []

    def _embed(self, run: _Run) -> None:
        run.vectors.append(self._judge.embed_crops(np.stack(run.crops)))
        run.crops = run.crops[len(run.crops) - self._window + 1 :]


@dataclass(slots=True)
class _Run:
    """Frames at 25 fps in a row, from tick `first` to `end`, of one face."""

    first: int
    end: int
    crops: list[FrameImage] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)


def _confidence(lips: torch.Tensor, sound: torch.Tensor, first: int) -> NDArray[np.float64]:
    """How much better lips (windows d) fit the sound of their time than that of other times: (windows,).

    By how much sound and pictures of a file are apart is found first: where lips and sound fit best.
    """
    seen, heard = lips.cpu().numpy(), sound.cpu().numpy()
    alike = np.full((2 * SHIFTS + 1, len(seen)), np.nan)  # of each shift and window
    for row, shift in enumerate(range(-SHIFTS, SHIFTS + 1)):
        windows = np.arange(len(seen)) + first + shift
        exist = (windows >= 0) & (windows < len(heard))
        alike[row, exist] = (seen[exist] * heard[windows[exist]]).sum(1)
    steady = _smoothed(alike, OTHER_SIGMA_FRAMES)
    others = np.nanmedian(np.where(np.isnan(steady).all(0), 0, steady), 0)
    near = range(SHIFTS - LATE_FRAMES, SHIFTS + LATE_FRAMES + 1)
    row = max(near, key=lambda row: float(np.nansum(np.maximum(0, steady[row] - others - FITS))))
    return np.asarray(np.nan_to_num(_smoothed(alike[row : row + 1], SIGMA_FRAMES)[0] - others))


def _smoothed(alike: NDArray[np.float64], sigma_frames: float) -> NDArray[np.float64]:
    """The mean over time of (shifts windows), without what is not known."""
    known = np.isfinite(alike)
    weight = gaussian_filter1d(known.astype(float), sigma_frames, axis=1, mode="constant")
    total = gaussian_filter1d(np.where(known, alike, 0), sigma_frames, axis=1, mode="constant")
    return np.where(weight > 0.05, total / np.maximum(weight, 0.05), np.nan)


def _is_loud(samples: NDArray[np.float32], ticks: int) -> NDArray[np.bool_]:
    """Where there is sound that may be speech (ticks,)."""
    per_tick = AUDIO_HZ // VIDEO_FPS
    padded = np.pad(samples[: ticks * per_tick], (0, max(0, ticks * per_tick - len(samples))))
    power = np.square(padded.reshape(ticks, per_tick), dtype=np.float64).mean(1)
    level_db = 10 * np.log10(power + 1e-12)
    floor_db = max(QUIET_DB, float(np.percentile(level_db, 95)) - DEPTH_DB) if ticks else QUIET_DB
    return np.asarray(level_db > floor_db)


def describe(turns: Sequence[Turn]) -> str:
    """What was found, in words."""
    spoken = [turn for turn in turns if turn.person]
    silent_s = sum(turn.end_s - turn.start_s for turn in turns if not turn.person)
    people = len({turn.person for turn in spoken})
    plural = "s" if len(spoken) != 1 else ""
    unclear = f"; for {silent_s:.1f} s nobody's lips fit the sound: left unchanged" if silent_s else ""
    return f"{len(spoken)} turn{plural} of {people} face{'s' if people != 1 else ''}{unclear}"
