"""Scores pairs by every metric, in one or several processes, and caches scores by the content of files."""

from __future__ import annotations

import io
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from latentsync.errors import LatentSyncError, MediaError, RecipeError, UsageError, WeightsError
from latentsync.evaluate.pairs import Made, Pair
from latentsync.evaluate.prepare import VERSION, Faces, RealSide, Reason, UnusableClip, made_clip, real_clip
from latentsync.events import Note, Progress, Report
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import BUNDLED, choose_landmarker, fan_weights
from latentsync.files import sha256_of, whole_or_nothing
from latentsync.metrics import build_metrics
from latentsync.metrics.metric import ClipMetric, Missing, ScoredClip, SetMetric, Unavailable
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.evaluate import Preparing
from latentsync.workers.local import LocalPool, cores
from latentsync.workers.pool import Attempt, EngineName, Rules, Task, Work, describe_fault, run_tasks
from latentsync.workers.ray import RayPool

REAL = "real"  # the row of the real videos
_DIGITS = 9  # significant ones that are kept: the last few depend on the machine
_STRIP_FRAMES, _STRIP_PX, _STRIP_QUALITY = 6, 160, 80
_JPEG = b"\xff\xd8"  # its first bytes

Metrics: TypeAlias = tuple[Sequence[ClipMetric], Sequence[SetMetric], Sequence[Unavailable]]


@lru_cache(maxsize=64)
def _hash_of(path: Path, size_bytes: int, modified_ns: int) -> str:
    return sha256_of(path)


def content_hash(path: Path | None) -> str:
    """The SHA-256 of a file's bytes; a marker with its path if it cannot be read, "none" without a path."""
    if path is None:
        return "none"
    try:
        status = path.stat()
        # With size and time in the key, a file that changed in between is hashed again.
        return _hash_of(path, status.st_size, status.st_mtime_ns)
    except (OSError, MediaError):
        return f"unreadable: {path}"


def key_of(parts: Iterable[str]) -> str:
    """One name for everything that a score depends on."""
    return sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


class Scored(BaseModel):
    """What one metric measured: numbers by name, and why there are no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    values: dict[str, float]
    missing: str


class Entry(BaseModel):
    """What the cache knows about one video. Keys of `scores` and `features` name metric and version.

    features  keys of the features of this clip and of its reference
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    reason: Reason | Literal[""] = ""
    detail: str = ""
    used_s: float = 0.0
    notes: tuple[str, ...] = ()
    scores: dict[str, Scored] = {}
    features: dict[str, tuple[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of scores. Each file appears whole or not at all, so runs may share the folder.

    Whatever is damaged or has another shape is measured again.
    """

    folder: Path

    def read(self, key: str) -> Entry | None:
        """The entry under `key`, if it is whole."""
        with suppress(OSError, ValidationError):
            return Entry.model_validate_json(self._path(key, ".json").read_bytes())
        return None

    def write(self, key: str, entry: Entry) -> None:
        """Keep an entry, replacing an older one."""
        self._replace(self._path(key, ".json"), entry.model_dump_json().encode())

    def read_features(self, key: str, *, width: int) -> NDArray[np.float32] | None:
        """The features (n width) under `key`, if they are whole."""
        with suppress(OSError, ValueError, EOFError):
            features = np.load(self._path(key, ".npy"), allow_pickle=False)
            is_whole = features.ndim == 2 and features.shape[1] == width and features.dtype == np.float32
            return features if is_whole else None
        return None

    def write_features(self, key: str, features: NDArray[np.floating]) -> None:
        """Keep features (n width) in single precision, which is what networks give."""
        content = io.BytesIO()
        np.save(content, features.astype(np.float32))
        self._replace(self._path(key, ".npy"), content.getvalue())

    def read_picture(self, key: str) -> bytes | None:
        """The JPEG under `key`, if there is one."""
        with suppress(OSError):
            content = self._path(key, ".jpg").read_bytes()
            return content if content.startswith(_JPEG) else None
        return None

    def write_picture(self, key: str, jpeg: bytes) -> None:
        """Keep a JPEG."""
        self._replace(self._path(key, ".jpg"), jpeg)

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"

    def _replace(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as part:
            part.write_bytes(content)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task: a pair with all its videos, so that the real one is read once."""

    pair: Pair
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScores:
    """What is known about one video of one method.

    reason    why the clip is excluded, one of the words in docs/evaluate.md; empty for a used one
    used_s    seconds that were compared
    notes     what was done to match it by time and position
    values    numbers by name
    missing   metric by name, and why it has no number for this clip
    features  set metric by name, and the cache's keys of the features of this clip and of its reference
    picture   the cache's key of the strip of frames; empty if there is none
    """

    clip: str
    setting: str
    method: str
    reason: str = ""
    detail: str = ""
    used_s: float = 0.0
    notes: tuple[str, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    features: dict[str, tuple[str, str]] = field(default_factory=dict)
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Scorer:
    """What a worker has loaded."""

    clip_metrics: Sequence[ClipMetric]
    set_metrics: Sequence[SetMetric]
    preparing: Preparing
    faces: Faces
    cache: Cache

    def score(self, assignment: Assignment) -> list[ClipScores]:
        """Score the real video of a pair and every method's."""
        side = RealSide(assignment.pair, self.preparing, self.faces)
        return [self._score_real(side), *(self._score_made(side, made) for made in assignment.made)]

    def _score_real(self, side: RealSide) -> ClipScores:
        pair = side.pair
        about = ClipScores(clip=pair.name, setting=pair.setting, method=REAL)
        return self._known_or_new(side, about, self._key(pair, [content_hash(pair.sound)]), None)

    def _score_made(self, side: RealSide, made: Made) -> ClipScores:
        pair = side.pair
        about = ClipScores(clip=pair.name, setting=pair.setting, method=made.method)
        if made.path is None:
            return replace(about, reason="missing", detail=made.reason)
        others = (made.path, pair.speech, pair.speaker)
        key = self._key(pair, [pair.setting, *(content_hash(one) for one in others)])
        return self._known_or_new(side, about, key, made.path)

    def _key(self, pair: Pair, parts: list[str]) -> str:
        prepared = self.preparing.model_dump_json()
        # All that changes a score, and files by their content: names may be used again.
        shared = [VERSION, self.faces.points_by, prepared, str(pair.length_s)]
        return key_of([*shared, content_hash(pair.video), *parts])

    def _known_or_new(self, side: RealSide, about: ClipScores, key: str, path: Path | None) -> ClipScores:
        """The scores of a method's video, or of the real one; it is only read if the cache lacks some."""
        entry = self.cache.read(key)
        set_metrics = () if path is None else self.set_metrics
        missing = [one for one in self.clip_metrics if entry is None or not _has_scores(entry, one)]
        without = [one for one in set_metrics if entry is None or not self._has_features(entry, one)]
        # A clip that cannot be scored is remembered as such, and not prepared again.
        if entry is None or (not entry.reason and (missing or without)):
            scores, features = (dict(entry.scores), dict(entry.features)) if entry else ({}, {})
            try:
                matched = real_clip(side) if path is None else made_clip(side, path)
            except UnusableClip as unusable:
                entry = Entry(
                    reason=unusable.reason, detail=unusable.detail, scores=scores, features=features
                )
            else:
                scores |= {_tag(metric): _score(metric, matched.clip) for metric in missing}
                # The real side is cut to what both videos show, so methods share it only where the rows
                # agree.
                keys = (key, self._key(side.pair, ["real side", str(matched.rows)]))
                features |= {_tag(metric): self._embed(metric, matched.clip, keys) for metric in without}
                self.cache.write_picture(key, _strip(matched.clip))
                used_s = len(matched.clip.made_u8) / VIDEO_FPS
                entry = Entry(used_s=used_s, notes=tuple(matched.notes), scores=scores, features=features)
            self.cache.write(key, entry)
        return self._from_entry(about, key, entry, set_metrics)

    def _has_features(self, entry: Entry, metric: SetMetric) -> bool:
        keys = entry.features.get(_tag(metric))
        return keys is not None and all(
            self.cache.read_features(key, width=metric.width) is not None for key in keys
        )

    def _embed(self, metric: SetMetric, clip: ScoredClip, keys: tuple[str, str]) -> tuple[str, str]:
        """Put the features of both sides into the cache; those of the real side serve all methods."""
        paired = replace(clip, real_u8=clip.input_u8, real_points=clip.input_points)
        made_key, real_key = (key_of([_tag(metric), key]) for key in keys)
        self.cache.write_features(made_key, metric.features(paired, "made"))
        # Another method with the same rows may have written them already.
        if self.cache.read_features(real_key, width=metric.width) is None:
            self.cache.write_features(real_key, metric.features(paired, "real"))
        return made_key, real_key

    def _from_entry(
        self, about: ClipScores, key: str, entry: Entry, set_metrics: Sequence[SetMetric]
    ) -> ClipScores:
        if entry.reason:
            return replace(about, reason=entry.reason, detail=entry.detail)
        scored = {metric.name: entry.scores[_tag(metric)] for metric in self.clip_metrics}
        return replace(
            about,
            used_s=entry.used_s,
            notes=entry.notes,
            values={name: value for one in scored.values() for name, value in one.values.items()},
            missing={name: one.missing for name, one in scored.items() if one.missing},
            features={metric.name: entry.features[_tag(metric)] for metric in set_metrics},
            picture=key,
        )


def _tag(metric: ClipMetric | SetMetric) -> str:
    return f"{metric.name}@{metric.version}"


def _has_scores(entry: Entry, metric: ClipMetric) -> bool:
    """Whether the entry has each number of a metric, or says why not."""
    scored = entry.scores.get(_tag(metric))
    names = {value.name for value in metric.values}
    return scored is not None and (scored.values.keys() == names or bool(scored.missing))


def _score(metric: ClipMetric, clip: ScoredClip) -> Scored:
    """The numbers of a metric, or why there are none."""
    present = {
        "real": clip.real_u8 is not None,
        "speaker": clip.speaker_points is not None,
        "input": clip.input_u8 is not None,
        "points": clip.made_points is not None,
    }
    absent = [need for need in metric.needs if not present[need]]
    if absent:
        is_real = clip.input_u8 is None
        return Scored(values={}, missing=_WHY_REAL if is_real else _WHY_ABSENT[absent[0]])
    try:
        scored = metric.score(clip)
    except LatentSyncError as error:
        scored = Missing("failed", str(error))
    if isinstance(scored, Missing):
        return Scored(values={}, missing=f"{scored.reason}: {scored.detail}".rstrip(": "))
    # JSON has neither NaN nor infinity: such a number is missing, with the metric's reason.
    values = {name: float(f"{value:.{_DIGITS}g}") for name, value in scored.items() if math.isfinite(value)}
    missing = [value for value in metric.values if value.name not in values]
    reasons = [value.undefined or f"undefined: {value.name}" for value in missing]
    return Scored(values=values, missing="; ".join(dict.fromkeys(reasons)))


_WHY_ABSENT = {
    "real": "no_reference: there is no real video of this speech",
    "speaker": "no_reference: there is no video of the speaker",
    "points": "face_lost: no landmarks",
}
_WHY_REAL = "no_reference: a real video is its own reference"


def _strip(clip: ScoredClip) -> bytes:
    """Frames of the input above the same ones of the generated video, as a JPEG."""
    chosen = np.linspace(0, len(clip.made_u8) - 1, _STRIP_FRAMES).round().astype(int)
    sides = [clip.made_u8] if clip.input_u8 is None else [clip.input_u8, clip.made_u8]
    size = (_STRIP_PX, _STRIP_PX)
    rows = [
        np.hstack([cv2.resize(side[frame], size, interpolation=cv2.INTER_AREA) for frame in chosen])
        for side in sides
    ]
    _, encoded = cv2.imencode(".jpg", np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _STRIP_QUALITY])
    return bytes(encoded.tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Where pairs are scored, and how many at a time.

    workers  None: one for a GPU, else one per core
    device   "cpu", "cuda" or "mps"
    limit_s  a pair that takes longer is given up
    """

    engine: EngineName = "local"
    address: str | None = None
    workers: int | None = None
    device: str = "cpu"
    limit_s: float = 1800.0

    @property
    def size(self) -> int:
        """How many workers on this machine."""
        return self.workers or (cores() if self.device == "cpu" else 1)

    def describe(self) -> str:
        """Where the workers run, in words."""
        if self.engine == "ray":
            return f"Ray, {self.address or 'on this machine'}"
        return f"this machine, {self.size} at a time on {self.device}"


def choose_scorer(
    names: Sequence[str] | None,
    preparing: Preparing,
    cache: Path,
    *,
    device: str,
    identity_network: Path | None = None,
) -> Work:
    """Load what a worker needs. Networks of metrics are loaded when the first of them is used."""
    metrics = build_metrics(names, device=device, identity_network=identity_network)
    return make_scorer(metrics, preparing, cache)


def make_scorer(metrics: Metrics, preparing: Preparing, cache: Path) -> Work:
    """What scores one pair by `metrics`; it sets the number of threads of this process to one.

    One thread, because sums over several differ in their last digits with the number of threads.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faces = Faces(Detector(), choose_landmarker(), points_by())
    return Scorer(metrics[0], metrics[1], preparing, faces, Cache(cache)).score


def points_by() -> str:
    """Which network finds the 68 points here: whose, and the hash of its weights."""
    theirs = fan_weights()
    return f"{'face-alignment' if theirs else 'ours'} {content_hash(theirs or BUNDLED)[:12]}"


def score_all(
    assignments: Sequence[Assignment], make: partial[Work], options: WorkerOptions, report: Report
) -> list[ClipScores]:
    """Score all pairs, in the order of the pairs; one that fails ends nothing else.

    Raises:
        MediaError: the disk is full.
        WeightsError: a network is missing or damaged.
    """
    tasks = [Task(str(index), one) for index, one in enumerate(assignments)]
    answers: dict[str, list[ClipScores]] = {}
    report(Progress("scoring", 0, len(tasks), "clips"))
    try:
        with closing(_attempts(tasks, make, options)) as attempts:
            for attempt in attempts:
                _take(attempt, answers, report)
                report(Progress("scoring", len(answers), len(tasks), "clips", note=_counts(answers)))
    except KeyboardInterrupt:
        report(
            Note(
                f"{len(answers)} of {len(tasks)} clips are done: run the same command again to resume",
                "warning",
            )
        )
        raise
    return [scores for task in tasks for scores in answers[task.key]]


def _attempts(
    tasks: list[Task], make: partial[Work], options: WorkerOptions
) -> Generator[Attempt, None, None]:
    rules, most = Rules(limit_s=options.limit_s), max(1, len(tasks))
    if options.engine == "ray":
        gpu = options.device != "cpu"
        pool = RayPool(make, workers=options.workers, most=most, address=options.address, gpu=gpu)
        return run_tasks(pool, tasks, rules)
    if options.size > 1 and len(tasks) > 1:
        return run_tasks(LocalPool(make, workers=options.size, most=most), tasks, rules)
    return _in_this_process(tasks, make)


def _in_this_process(tasks: list[Task], make: partial[Work]) -> Generator[Attempt, None, None]:
    with _threads_kept():
        score = make()
        for task in tasks:
            try:
                attempt = Attempt(task, answer=score(task.content))
            except Exception as error:  # as in a worker: one clip does not end the run
                attempt = Attempt(task, failure="error", fault=describe_fault(error))
            yield attempt


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _take(attempt: Attempt, answers: dict[str, list[ClipScores]], report: Report) -> None:
    assignment: Assignment = attempt.task.content
    if attempt.failure is None:
        answers[attempt.task.key] = attempt.answer
        return
    fault = attempt.fault
    if fault.is_disk_full:
        raise MediaError(
            "the disk of the cache or the output is full", hint="free some space; nothing is lost"
        )
    if isinstance(fault.error, WeightsError | RecipeError | UsageError):
        raise fault.error  # every other clip would meet it, too
    follows = "it is listed as failed" if attempt.is_final else "it is tried again at the end"
    report(Note(f"'{assignment.pair.name}': {attempt.failure} ({fault.text}), {follows}", "warning"))
    if attempt.is_final:
        detail = fault.text if attempt.failure == "error" else f"the worker {attempt.failure}"
        answers[attempt.task.key] = _failed(assignment, detail)


def _failed(assignment: Assignment, detail: str) -> list[ClipScores]:
    """The rows of a pair that a worker could not finish."""
    pair = assignment.pair
    about = ClipScores(clip=pair.name, setting=pair.setting, method=REAL, reason="failed", detail=detail)
    return [about, *(replace(about, method=made.method) for made in assignment.made)]


def _counts(answers: dict[str, list[ClipScores]]) -> str:
    excluded = sum(bool(one.reason) for scores in answers.values() for one in scores)
    return f"{excluded} videos excluded" if excluded else ""
