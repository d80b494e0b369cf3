"""Scores one pair: every method's video of it, and the real one, by every metric that is not in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from latentsync.errors import LatentSyncError
from latentsync.evaluate.cache import Cache, content_hash, key_of
from latentsync.evaluate.matching import Source, made_clip, real_clip
from latentsync.evaluate.pairs import Pair
from latentsync.evaluate.prepare import VERSION, Faces, Unfit
from latentsync.metrics.metric import ClipMetric, Missing, ScoredClip, SetMetric
from latentsync.preprocess.step import CLIP_FPS
from latentsync.recipe.evaluate import Preparing

REAL = "real"  # the row of the real videos
_DIGITS = 9  # significant ones that are kept: the last few depend on the machine
_STRIP_FRAMES, _STRIP_PX, _STRIP_QUALITY = 6, 96, 80


@dataclass(frozen=True, slots=True)
class Made:
    """A method's video of a pair, or why there is none."""

    method: str
    path: Path | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task: a pair with all its videos, so that the real one is read once."""

    pair: Pair
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScores:
    """What is known of one video of one method.

    reason    why the clip is excluded, a word of `prepare.REASONS`; empty for a used one
    used_s    seconds that were compared
    notes     what was done to match it by time and place
    values    numbers by name
    missing   metric by name, and why it has no number for this clip
    features  set metric by name, and where the cache has the features of this clip and of its reference
    picture   where the cache has the strip of frames; empty where there is none
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
        source = Source(assignment.pair, self.preparing, self.faces)
        return [self._of_real(source), *(self._of_made(source, made) for made in assignment.made)]

    def _of_real(self, source: Source) -> ClipScores:
        pair = source.pair
        about = ClipScores(clip=pair.name, setting=pair.setting, method=REAL)
        return self._known_or_new(source, about, self._key(pair, [content_hash(pair.sound)]), None)

    def _of_made(self, source: Source, made: Made) -> ClipScores:
        pair = source.pair
        about = ClipScores(clip=pair.name, setting=pair.setting, method=made.method)
        if made.path is None:
            return replace(about, reason="missing", detail=made.reason)
        others = (made.path, pair.speech, pair.speaker)
        key = self._key(pair, [pair.setting, *(content_hash(one) for one in others)])
        return self._known_or_new(source, about, key, made.path)

    def _key(self, pair: Pair, parts: list[str]) -> str:
        prepared = self.preparing.model_dump_json()
        seen = [VERSION, self.faces.points_by, prepared, str(pair.length_s)]
        return key_of([*seen, content_hash(pair.video), *parts])

    def _known_or_new(self, source: Source, about: ClipScores, key: str, path: Path | None) -> ClipScores:
        """The scores of a method's video, or of the real one; it is only read if the cache lacks some."""
        known = self.cache.read(key)
        scored: dict[str, Any] = known.get("scores", {})
        features: dict[str, list[str]] = known.get("features", {})
        set_metrics = () if path is None else self.set_metrics
        lacking = [metric for metric in self.clip_metrics if _tag(metric) not in scored]
        without = [metric for metric in set_metrics if not self._has(features.get(_tag(metric)))]
        if not known or (not known["reason"] and (lacking or without)):
            known = {"reason": "", "detail": "", "used_s": 0.0, "notes": []}
            try:
                matched = real_clip(source) if path is None else made_clip(source, path)
            except Unfit as unfit:
                known |= {"reason": unfit.reason, "detail": unfit.detail}
            else:
                known |= {"used_s": len(matched.clip.made_u8) / CLIP_FPS, "notes": matched.notes}
                scored |= {_tag(metric): _score(metric, matched.clip) for metric in lacking}
                real_side = self._key(source.pair, ["real side", str(matched.rows)])
                keys = (key, real_side)
                features |= {_tag(metric): self._keep(metric, matched.clip, keys) for metric in without}
                self.cache.write_picture(key, _strip(matched.clip))
            self.cache.write(key, known | {"scores": scored, "features": features})
        return self._from_known(about, key, known | {"scores": scored, "features": features}, set_metrics)

    def _has(self, keys: list[str] | None) -> bool:
        return keys is not None and all(self.cache.has_features(key) for key in keys)

    def _keep(self, metric: SetMetric, clip: ScoredClip, keys: tuple[str, str]) -> list[str]:
        """Put the features of both sides into the cache; those of the real side serve all methods."""
        paired = replace(clip, real_u8=clip.input_u8, real_points=clip.input_points)
        made_key, real_key = (key_of([_tag(metric), key]) for key in keys)
        self.cache.write_features(made_key, metric.features(paired, "made"))
        if not self.cache.has_features(real_key):
            self.cache.write_features(real_key, metric.features(paired, "real"))
        return [made_key, real_key]

    def _from_known(
        self, about: ClipScores, key: str, known: dict[str, Any], set_metrics: Sequence[SetMetric]
    ) -> ClipScores:
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        if known["reason"]:
            return replace(about, reason=known["reason"], detail=known["detail"])
        for metric in self.clip_metrics:
            scored = known["scores"][_tag(metric)]
            values |= scored["values"]
            if scored["missing"]:
                missing[metric.name] = scored["missing"]
        return replace(
            about,
            used_s=known["used_s"],
            notes=tuple(known["notes"]),
            values=values,
            missing=missing,
            features={metric.name: tuple(known["features"][_tag(metric)]) for metric in set_metrics},
            picture=key,
        )


def _tag(metric: ClipMetric | SetMetric) -> str:
    return f"{metric.name}@{metric.version}"


def _score(metric: ClipMetric, clip: ScoredClip) -> dict[str, Any]:
    """The numbers of a metric, or why there are none, as JSON takes them."""
    there = {
        "real": clip.real_u8 is not None,
        "speaker": clip.speaker_points is not None,
        "input": clip.input_u8 is not None,
        "points": clip.made_points is not None,
    }
    absent = [need for need in metric.needs if not there[need]]
    if absent:
        is_real = clip.input_u8 is None
        return {"values": {}, "missing": _WHY_REAL if is_real else _WHY_ABSENT[absent[0]]}
    try:
        scored = metric.score(clip)
    except LatentSyncError as error:
        scored = Missing("failed", str(error))
    if isinstance(scored, Missing):
        return {"values": {}, "missing": f"{scored.reason}: {scored.detail}".rstrip(": ")}
    values = {name: float(f"{value:.{_DIGITS}g}") for name, value in scored.items() if math.isfinite(value)}
    lacking = [value for value in metric.values if value.name not in values]
    reasons = [value.undefined or f"undefined: {value.name}" for value in lacking]
    return {"values": values, "missing": "; ".join(dict.fromkeys(reasons))}


_WHY_ABSENT = {
    "real": "no_reference: there is no real video of this speech",
    "speaker": "no_reference: the speaker's lips are not there to be seen",
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


def failed(assignment: Assignment, detail: str) -> list[ClipScores]:
    """The rows of a pair that a worker could not finish."""
    pair = assignment.pair
    about = ClipScores(clip=pair.name, setting=pair.setting, method=REAL, reason="failed", detail=detail)
    return [about, *(replace(about, method=made.method) for made in assignment.made)]


def as_json(scores: ClipScores) -> dict[str, Any]:
    """The scores in values that JSON can hold, without what only the cache understands."""
    told = asdict(scores)
    del told["features"], told["picture"]
    return told
