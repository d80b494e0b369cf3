"""The chain: builds the steps, takes one source through them, and times each of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import cv2
import torch

from latentsync.errors import FaceError, MediaError
from latentsync.manifest import Decision, clip_folder
from latentsync.preprocess.align_face import AlignFace
from latentsync.preprocess.cut_segments import CutSegments
from latentsync.preprocess.keep_face import KeepFace
from latentsync.preprocess.measure_quality import MeasureQuality
from latentsync.preprocess.measure_sync import MeasureSync
from latentsync.preprocess.read_video import ReadVideo
from latentsync.preprocess.save_features import SaveFeatures
from latentsync.preprocess.split_shots import SplitShots
from latentsync.preprocess.step import Clip, Drop, Source, Step
from latentsync.preprocess.write_clip import WriteClip
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.runtime import DeviceName, choose_device
from latentsync.workers.pool import Work

ItemT = TypeVar("ItemT")


def build_steps(recipe: PreprocessRecipe, *, device: str) -> list[Step]:
    """The steps that `recipe` asks for. Each worker calls `start` of every one before the first source.

    Source: the order of the paper, section 3.3, except that faces are aligned before shots are cut into
    segments: a frame is dropped from memory once it has a crop, so only crops have to be held.
    """
    steps: list[Step] = [
        ReadVideo(recipe.read, min_s=recipe.cut.min_s),
        SplitShots(recipe.shots),
        AlignFace(recipe.align, with_boxes=recipe.sync.adjust == "before"),
        CutSegments(recipe.cut),
        KeepFace(recipe.face),
        MeasureSync(recipe.sync, device=device),
        MeasureQuality(recipe.quality, device=device),
        WriteClip(recipe.encoding, recipe.split),
    ]
    if recipe.features.mel or recipe.features.whisper != "none":
        steps.append(SaveFeatures(recipe.features, device=device))
    return steps


def make_work(recipe: PreprocessRecipe, device: DeviceName, out: Path) -> Work:
    """Load the steps, once in each worker; returns what processes a source there.

    One thread computes, because sums over several differ in their last digits with the number of threads:
    so the manifest depends neither on the engine nor on the number of workers.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    watch = Stopwatch()
    steps = [watch.on(step) for step in build_steps(recipe, device=choose_device(device).type)]
    for step in steps:
        step.start()

    def work_on(source: Source) -> tuple[list[Decision], dict[str, float]]:
        decisions = process(source, steps, out)
        return decisions, watch.take()

    return work_on


def process(source: Source, steps: Sequence[Step], out_dir: Path) -> list[Decision]:
    """Take one source through all steps and write its clips.

    First removes what an interrupted run left of this source. The decisions and files depend only on the
    source, the steps and their recipe, never on other sources.

    Args:
        source: the file; it is only read.
        steps: from `build_steps`, started.
        out_dir: an existing folder.

    Returns:
        At least one decision, in the order of the source's time.

    Raises:
        OSError: the disk is full or gone; a fault of the source itself is a decision instead.
        MemoryError: unchanged, like everything else that no media file should cause.
    """
    remove_clips(source, out_dir)
    decisions = [_decision(clip, drop) for clip, drop in _flow(Clip(source=source), steps, out_dir)]
    return decisions or [Decision(source=source.name, outcome="dropped", reason="too_short")]


def remove_clips(source: Source, out_dir: Path) -> None:
    """Remove the clips of a source, and parts of clips."""
    folder = clip_folder(out_dir, source.name)
    for path in sorted([*folder.glob("*.mp4"), *folder.glob("*.part")]):
        path.unlink()


def _flow(clip: Clip, steps: Sequence[Step], out_dir: Path) -> Iterator[tuple[Clip, Drop | None]]:
    """What the steps make of a clip, depth first: a clip passes all steps before the next one starts."""
    if not steps:
        yield clip, None
        return
    answers = steps[0].run(clip, out_dir)
    while True:
        try:
            answer = next(answers, None)
        except (MediaError, FaceError) as error:
            # A fault of the file is a drop; what no file should cause passes on.
            reason = "unreadable" if isinstance(error, MediaError) else "no_face"
            yield clip, Drop(reason, _without_folder(error, clip.source))
            return
        if answer is None:
            return
        if isinstance(answer, Drop):
            yield answer.clip or clip, answer
        else:
            yield from _flow(answer, steps[1:], out_dir)


def _without_folder(error: MediaError | FaceError, source: Source) -> str:
    """The message without the folder of the source, so that it is the same on every machine."""
    return str(error).replace(str(source.path.absolute()), source.name).replace(str(source.path), source.name)


def _decision(clip: Clip, drop: Drop | None) -> Decision:
    face, sync, quality, written = clip.face, clip.sync, clip.quality, clip.written
    is_whole = clip.frames is None
    return Decision(
        source=clip.source.name,
        outcome="dropped" if drop else "kept",
        reason=drop.reason if drop else "",
        detail=drop.detail if drop else "",
        clip=written.name if written else None,
        start_s=None if is_whole else clip.start_frame / VIDEO_FPS,
        end_s=None if clip.frames is None else (clip.start_frame + clip.frames) / VIDEO_FPS,
        frames=clip.frames,
        resolution=clip.resolution,
        fps=None if is_whole else VIDEO_FPS,
        face_px=_rounded(face.px if face else None, 1),
        face_yaw=_rounded(face.yaw if face else None, 3),
        other_faces=_rounded(face.others if face else None, 3),
        offset_frames=sync.offset_frames if sync else None,
        offset_applied=sync.is_applied if sync else False,
        confidence=_rounded(sync.confidence if sync else None, 4),
        judge=sync.judge if sync else None,
        quality=_rounded(quality.value if quality else None, 4),
        quality_measure=quality.measure if quality else None,
        blockiness=_rounded(quality.blockiness if quality else None, 3),
        person=written.person if written else None,
        split=written.split if written else None,
        sha256=written.sha256 if written else None,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by step, although steps pull frames from one another.

    While a step waits for frames of the step before it, the seconds count for that one.
    """

    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=list)
    _since_s: float = 0.0

    def on(self, step: Step) -> Step:
        """`step`, measured."""
        return _Measured(step, self)

    def take(self) -> dict[str, float]:
        """The seconds since the last call, by step."""
        taken = {name: round(seconds, 4) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        self._running.clear()
        return taken

    def over(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """`items`; the seconds that it takes to make them count for `name`."""
        while True:
            self._switch()
            self._running.append(name)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._switch()
                if self._running:
                    self._running.pop()
            yield item

    def _switch(self) -> None:
        now_s = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now_s - self._since_s
        self._since_s = now_s


@dataclass(slots=True)
class _Measured:
    step: Step
    watch: Stopwatch
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.step.name

    def start(self) -> None:
        self.step.start()

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        for answer in self.watch.over(self.name, self.step.run(clip, out_dir)):
            if isinstance(answer, Drop):
                yield answer
                continue
            if answer.stream is not None and answer.stream is not clip.stream:
                answer = replace(answer, stream=self.watch.over(self.name, answer.stream))
            if answer.pictures is not None and answer.pictures is not clip.pictures:
                answer = replace(answer, pictures=self.watch.over(self.name, answer.pictures))
            yield answer
