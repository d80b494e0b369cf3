"""How well a SyncNet tells right from wrong speech: accuracy, ROC and offsets over processed clips."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError, WeightsError
from latentsync.evaluate.report import explained, make_folder, panels, picture_of, render, write_text
from latentsync.events import Note, Plan, Progress, Report
from latentsync.manifest import ManifestClip, read_manifest
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.sync import SyncJudge, distance_per_offset, own_judge
from latentsync.models.syncnet import SyncNet
from latentsync.preprocess.read_video import at_25_fps
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.recipe.evaluate import EvaluateRecipe, JudgingSyncNet
from latentsync.runtime import DeviceName, choose_device
from latentsync.weights.judges import load_syncnet

PAGE, NUMBERS = "syncnet.html", "syncnet.json"
Split = Literal["auto", "train", "validation", "all"]

# Source: the paper: accuracy on HDTF of its SyncNet, and of the best one before it.
PAPER_ACCURACY = (("LatentSync's SyncNet, HDTF", 0.94), ("the best before it, HDTF", 0.91))
LEAST_WINDOWS = 2
_LONGEST_S = 60.0
_LEAST_WINDOWS_FOR_OFFSET = 4
_ROC_POINTS = 200
_BLUE = "#0072b2"


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers of all pairs, so that the pairs of a clip depend on no other clip.

    clip      (n,) which clip
    is_right  (n,) whether the pair counts as a right one
    start, other  (n,) 0..1, where the frames begin and where the wrong speech begins
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

    def windows(self, clip: int, windows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows of frames and of wrong speech for all pairs of a clip with this number of windows."""
        mine = self.clip == clip
        starts = (self.start[mine] * windows).astype(np.int64)
        # Wrong speech is 1 to windows - 1 further on, around the end: never the right one.
        further = 1 + (self.other[mine] * (windows - 1)).astype(np.int64)
        return starts, (starts + further) % windows


@dataclass(slots=True)
class Cosines:
    """What was measured so far, a cosine for each pair."""

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
    """Measure a SyncNet on clips, of which one is in memory at a time; those without a pair are not read.

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
            hint="give the output folder of 'latentsync preprocess'",
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
    samples = read_audio(clip.path, end_s=len(crops_u8) / VIDEO_FPS).samples
    if crops_u8.shape[1] != crops_u8.shape[2]:
        raise MediaError(f"its frames are {crops_u8.shape[2]}x{crops_u8.shape[1]}, not aligned crops")
    visual, audio = judge.embed_crops(crops_u8), judge.embed_speech(samples)
    windows = min(len(visual), len(audio))
    if windows < LEAST_WINDOWS:
        raise MediaError(f"too_short: {len(crops_u8)} frames and {len(samples) / AUDIO_HZ:.2f} s of speech")
    starts, others = draws.windows(number, windows)
    # Both for every draw: the reference's accuracy takes one of them, the balanced one takes both.
    for speech, kept in ((starts, cosines.right), (others, cosines.wrong)):
        kept += (1 - judge.distances(visual[starts], audio[speech])).tolist()
    cosines.is_right += draws.is_right[draws.clip == number].tolist()
    if windows >= _LEAST_WINDOWS_FOR_OFFSET:
        distances = distance_per_offset(judge, visual, audio, max_shift_frames=max_shift_frames)
        # Of equal distances the smallest offset counts.
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
    # A few hundred points draw the same curve as all of them.
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
        roc=tuple((float(false_rates[index]), float(true_rates[index])) for index in kept),
        offsets=dict(sorted(cosines.offsets.items())),
        excluded=excluded,
    )


def _roc(
    right: NDArray[np.float64], wrong: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, and the thresholds over which pairs count as right, high to low."""
    # The lowest one is below all cosines, so that the curve ends at (1, 1).
    thresholds = np.concatenate([np.unique(np.concatenate([right, wrong]))[::-1], [-math.inf]])
    true_rates = 1 - np.searchsorted(np.sort(right), thresholds, side="right") / len(right)
    false_rates = 1 - np.searchsorted(np.sort(wrong), thresholds, side="right") / len(wrong)
    return false_rates, true_rates, thresholds


def as_dict(found: SyncNetAccuracy) -> dict[str, object]:
    """What was found in values that JSON can hold."""
    return asdict(found) | {
        "within_one_frame": found.within_one_frame,
        "offsets": {str(offset): count for offset, count in found.offsets.items()},
        "paper": dict(PAPER_ACCURACY),
        "excluded": [{"clip": clip, "reason": reason} for clip, reason in found.excluded],
    }


def rows(found: SyncNetAccuracy) -> list[tuple[str, str]]:
    """What was found, as a name and a text for each number."""
    shown = [(f"accuracy (cosine > {found.threshold:g})", f"{found.accuracy:.1%}")]
    shown += [(f"  {name}", f"{accuracy:.0%}") for name, accuracy in PAPER_ACCURACY]
    return [
        *shown,
        ("balanced accuracy", f"{found.balanced_accuracy:.1%}"),
        (f"  at its best threshold, {found.best_threshold:.3f}", f"{found.best_accuracy:.1%}"),
        ("area under the ROC curve", f"{found.auc:.4f}"),
        ("offset within one frame", f"{found.within_one_frame:.1%} of {sum(found.offsets.values())} clips"),
        ("pairs, clips", f"{found.pairs}, {found.clips} ({len(found.excluded)} excluded)"),
    ]


def write_page(found: SyncNetAccuracy, about: Sequence[tuple[str, str]]) -> str:
    """What was found as one HTML page."""
    return render(
        "syncnet.html.j2",
        title="SyncNet accuracy",
        facts=about,
        numbers=[(name.strip(), text) for name, text in rows(found)],
        plots=[_draw_roc(found), *([_draw_offsets(found)] if found.offsets else [])],
        excluded=found.excluded,
    )


def _draw_roc(found: SyncNetAccuracy) -> dict[str, str]:
    figure, (axes,) = panels(340, 320)
    axes.plot(*zip(*found.roc, strict=True), color=_BLUE)
    axes.plot((0, 1), (0, 1), "--", color="#888888", linewidth=1)  # chance
    axes.set(title="ROC over all drawn pairs", xlim=(0, 1), ylim=(0, 1.01))
    axes.set(xlabel="wrong pairs taken for right", ylabel="right pairs found")
    return picture_of(figure, "ROC curve")


def _draw_offsets(found: SyncNetAccuracy) -> dict[str, str]:
    figure, (axes,) = panels(460, 320)
    axes.bar(list(found.offsets), list(found.offsets.values()), color=_BLUE)
    widest = max(5, *map(abs, found.offsets)) + 1
    axes.set(title="Best offset of each clip; 0 is right", xlim=(-widest, widest))
    axes.set(xlabel="offset in frames", ylabel="clips")
    return picture_of(figure, "Best offsets")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncNetJob:
    """Which SyncNet to judge, and on what.

    data   as `read_manifest` takes it
    split  "auto" takes the validation clips of a manifest that has some, else all clips
    """

    checkpoint: Path
    data: Path
    split: Split = "auto"
    output: Path = Path("evaluation")
    device: DeviceName = "auto"


@dataclass(frozen=True, slots=True)
class SyncNetResult:
    """What was found, and the files that were written."""

    found: SyncNetAccuracy
    page: Path
    numbers: Path

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return as_dict(self.found) | {"page": str(self.page), "numbers": str(self.numbers)}


def run_syncnet(job: SyncNetJob, recipe: EvaluateRecipe, report: Report) -> SyncNetResult:
    """Measure how well a SyncNet tells right from wrong speech in processed clips.

    Raises:
        WeightsError: the checkpoint is missing, damaged or not a SyncNet that sees pixels.
        MediaError: there are no clips, or the output cannot be written.
    """
    device = choose_device(job.device)
    network = load_syncnet(job.checkpoint, device=device)
    if isinstance(network, SyncNet) and network.config.space != "pixel":
        raise WeightsError(
            f"'{job.checkpoint}': this SyncNet takes the latents of a VAE",
            hint="give one that takes pixels, such as stable_syncnet.pt",
        )
    clips, split = _clips_of_split(read_manifest(job.data), job.split)
    make_folder(job.output)
    about = (
        ("syncnet", str(job.checkpoint)),
        ("data", f"{job.data}, {split}: {len(clips)} clips"),
        ("pairs", f"{recipe.syncnet.pairs}, half of them right, seed {recipe.seed}"),
        ("device", device.type),
    )
    report(Plan(tuple(f"{name:8} {text}" for name, text in about)))
    found = judge_clips(own_judge(network, device), clips, recipe.syncnet, report, seed=recipe.seed)
    for name, reason in found.excluded:
        report(Note(f"'{name}': {reason}", "warning"))
    result = SyncNetResult(found, job.output / PAGE, job.output / NUMBERS)
    with explained(job.output):
        write_text(result.numbers, json.dumps(as_dict(found), indent=1) + "\n")
        write_text(result.page, write_page(found, about))
    return result


def _clips_of_split(clips: list[ManifestClip], split: Split) -> tuple[list[ManifestClip], Split]:
    has_manifest = any(clip.sha256 is not None for clip in clips)
    if split == "auto":
        is_split = has_manifest and any(clip.split == "validation" for clip in clips)
        split = "validation" if is_split else "all"
    chosen = [clip for clip in clips if split in ("all", clip.split)]
    if not chosen:
        raise MediaError(f"no clip is in the split {split}", hint="choose another --split")
    return chosen, split
