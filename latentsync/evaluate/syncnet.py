"""How well a SyncNet tells right from wrong speech: accuracy, ROC and offsets over processed clips."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.evaluate.page import facts, figure, page
from latentsync.evaluate.plots import Panel, bars, curve
from latentsync.events import Progress, Report
from latentsync.manifest import ManifestClip
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.sync import SyncJudge, distance_per_offset
from latentsync.preprocess.read_video import at_25_fps
from latentsync.preprocess.step import CLIP_FPS
from latentsync.recipe.evaluate import JudgingSyncNet

# Source: the paper: accuracy on HDTF of its SyncNet, and of the best one before it.
PAPER_ACCURACY = (("LatentSync's SyncNet, HDTF", 0.94), ("the best before it, HDTF", 0.91))
LEAST_WINDOWS = 2
_LONGEST_S = 60.0
_LEAST_WINDOWS_FOR_OFFSET = 4
_ROC_POINTS = 200


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers of all pairs, so that what one clip gets depends on no other one.

    clip      (n,) which clip
    is_right  (n,) whether the pair counts as a right one
    start, other  (n,) 0..1, where the frames begin and where the wrong speech does
    """

    clip: NDArray[np.int64]
    is_right: NDArray[np.bool_]
    start: NDArray[np.float64]
    other: NDArray[np.float64]

    @classmethod
    def of(cls, clips: int, pairs: int, *, seed: int) -> Draws:
        """Draw `pairs` pairs over `clips` clips, half of them right.

        Source: the official data set of SyncNet: any clip, any start, wrong speech from any other start.
        """
        random = np.random.default_rng(seed)
        clip = random.integers(clips, size=pairs)
        return cls(clip, random.random(pairs) < 0.5, random.random(pairs), random.random(pairs))

    def places(self, clip: int, windows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where frames and wrong speech begin, for all pairs of a clip with so many windows."""
        mine = self.clip == clip
        starts = (self.start[mine] * windows).astype(np.int64)
        further = 1 + (self.other[mine] * (windows - 1)).astype(np.int64)
        return starts, (starts + further) % windows


@dataclass(slots=True)
class Cosines:
    """What was measured so far."""

    right: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    offsets: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncNetAccuracy:
    """What was found.

    accuracy           over pairs of which half are right, as the reference counts it
    balanced_accuracy  every drawn start with its right and with its wrong speech
    auc                how often right speech is nearer than wrong speech
    best_accuracy      balanced, at the threshold `best_threshold`
    roc                false and true positive rates
    offsets            clips by the offset at which speech fits best, in frames; 0 is right
    excluded           clip and reason
    """

    clips: int
    pairs: int
    threshold: float
    accuracy: float
    balanced_accuracy: float
    auc: float
    best_accuracy: float
    best_threshold: float
    roc: tuple[tuple[float, float], ...]
    offsets: dict[int, int]
    excluded: tuple[tuple[str, str], ...]

    @property
    def within_one_frame(self) -> float:
        """Share of the clips whose best offset is at most one frame."""
        near = sum(count for offset, count in self.offsets.items() if abs(offset) <= 1)
        return near / max(1, sum(self.offsets.values()))


def judge_clips(
    judge: SyncJudge, clips: Sequence[ManifestClip], settings: JudgingSyncNet, report: Report, *, seed: int
) -> SyncNetAccuracy:
    """Measure a SyncNet on clips; one clip is held at a time, and those without a pair are not read.

    Raises:
        MediaError: no clip can be used.
    """
    draws, cosines = Draws.of(len(clips), settings.pairs, seed=seed), Cosines()
    wanted = sorted(set(draws.clip.tolist()))
    excluded: list[tuple[str, str]] = []
    for done, number in enumerate(wanted):
        report(Progress("clips", done, len(wanted), "clips"))
        try:
            _measure(judge, clips[number], number, draws, cosines, settings.max_shift_frames)
        except MediaError as error:
            excluded.append((clips[number].name, str(error)))
    report(Progress("clips", len(wanted), len(wanted), "clips"))
    if not cosines.right:
        raise MediaError(
            f"none of {len(wanted)} clips can be used; the first: {excluded[0][1]}",
            hint="give the out folder of 'latentsync preprocess'",
        )
    return _summed(cosines, settings, len(wanted) - len(excluded), tuple(excluded))


def _measure(
    judge: SyncJudge,
    clip: ManifestClip,
    number: int,
    draws: Draws,
    cosines: Cosines,
    max_shift_frames: int,
) -> None:
    shown = at_25_fps(read_frames(clip.path, end_s=_LONGEST_S), max_gap_s=math.inf)
    crops_u8 = np.stack([frame.rgb_u8 for frame in shown])
    samples = read_audio(clip.path, end_s=len(crops_u8) / CLIP_FPS).samples
    if crops_u8.shape[1] != crops_u8.shape[2]:
        raise MediaError(f"its frames are {crops_u8.shape[2]}x{crops_u8.shape[1]}, no aligned crops")
    seen, heard = judge.embed_crops(crops_u8), judge.embed_speech(samples)
    windows = min(len(seen), len(heard))
    if windows < LEAST_WINDOWS:
        raise MediaError(f"too_short: {len(crops_u8)} frames and {len(samples) / 16000:.2f} s of speech")
    starts, others = draws.places(number, windows)
    for speech, kept in ((starts, cosines.right), (others, cosines.wrong)):
        kept += (1 - judge.distances(seen[starts], heard[speech])).tolist()
    cosines.is_right += draws.is_right[draws.clip == number].tolist()
    if windows >= _LEAST_WINDOWS_FOR_OFFSET:
        distances = distance_per_offset(judge, seen, heard, max_shift_frames=max_shift_frames)
        cosines.offsets[min(distances, key=lambda offset: (distances[offset], abs(offset)))] += 1


def _summed(
    cosines: Cosines, settings: JudgingSyncNet, clips: int, excluded: tuple[tuple[str, str], ...]
) -> SyncNetAccuracy:
    right, wrong = np.array(cosines.right), np.array(cosines.wrong)
    is_right = np.array(cosines.is_right)
    drawn = np.where(is_right, right, wrong)
    false_rates, true_rates, thresholds = _roc(right, wrong)
    balanced = (true_rates + 1 - false_rates) / 2
    best = int(balanced.argmax())
    kept = np.unique(np.linspace(0, len(thresholds) - 1, _ROC_POINTS).round().astype(int))
    limit = settings.threshold
    return SyncNetAccuracy(
        clips=clips,
        pairs=len(right),
        threshold=limit,
        accuracy=float(((drawn > limit) == is_right).mean()),
        balanced_accuracy=float(((right > limit).mean() + (wrong <= limit).mean()) / 2),
        auc=float(np.trapezoid(true_rates, false_rates)),
        best_accuracy=float(balanced[best]),
        best_threshold=float(thresholds[best]),
        roc=tuple((float(false_rates[place]), float(true_rates[place])) for place in kept),
        offsets=dict(sorted(cosines.offsets.items())),
        excluded=excluded,
    )


def _roc(
    right: NDArray[np.float64], wrong: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, and the thresholds over which pairs count as right, high to low."""
    thresholds = np.concatenate([np.unique(np.concatenate([right, wrong]))[::-1], [-math.inf]])
    true_rates = 1 - np.searchsorted(np.sort(right), thresholds, side="right") / len(right)
    false_rates = 1 - np.searchsorted(np.sort(wrong), thresholds, side="right") / len(wrong)
    return false_rates, true_rates, thresholds


def as_dict(found: SyncNetAccuracy) -> dict[str, object]:
    """What was found in values that JSON can hold."""
    return {
        "clips": found.clips,
        "pairs": found.pairs,
        "threshold": found.threshold,
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "auc": found.auc,
        "best_accuracy": found.best_accuracy,
        "best_threshold": found.best_threshold,
        "within_one_frame": found.within_one_frame,
        "offsets": {str(offset): count for offset, count in found.offsets.items()},
        "roc": [list(point) for point in found.roc],
        "paper": dict(PAPER_ACCURACY),
        "excluded": [{"clip": clip, "reason": reason} for clip, reason in found.excluded],
    }


def lines(found: SyncNetAccuracy) -> list[str]:
    """What was found, for people."""
    rows = [(f"accuracy (cosine > {found.threshold:g})", f"{found.accuracy:.1%}")]
    rows += [(f"  {name}", f"{accuracy:.0%}") for name, accuracy in PAPER_ACCURACY]
    rows += [
        ("balanced accuracy", f"{found.balanced_accuracy:.1%}"),
        (f"  at its best threshold, {found.best_threshold:.3f}", f"{found.best_accuracy:.1%}"),
        ("area under the ROC curve", f"{found.auc:.4f}"),
        ("offset within one frame", f"{found.within_one_frame:.1%} of {sum(found.offsets.values())} clips"),
        ("pairs, clips", f"{found.pairs}, {found.clips} ({len(found.excluded)} excluded)"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def write_page(found: SyncNetAccuracy, about: Sequence[tuple[str, str]]) -> str:
    """What was found as one HTML page."""
    told = [line.strip().split("  ", 1) for line in lines(found)]
    unit = (0.0, 1.0)
    roc = curve(
        "ROC curve",
        found.roc,
        Panel(300, 300, unit, unit),
        labels=("wrong pairs taken for right", "right pairs found"),
    )
    histogram = ""
    if found.offsets:
        histogram = bars("offsets", list(found.offsets.items()), labels=("offset in frames", "clips"))
    drawings = figure(roc, "ROC over all drawn pairs") + figure(
        histogram, "Best offset of each clip; 0 is right"
    )
    sections = [
        facts(about),
        "<h2>Accuracy</h2>",
        facts([(name.strip(), text.strip()) for name, text in told]),
        f'<div class="plots">{drawings}</div>',
    ]
    if found.excluded:
        sections += ["<h2>Excluded</h2>", facts(found.excluded)]
    return page("SyncNet accuracy", sections)
