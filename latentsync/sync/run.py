"""Drives the mouth in a video with speech: the `sync` command's core."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from latentsync import __version__
from latentsync.audio.whisper import SpeechStates
from latentsync.errors import MediaError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.faces.follow import FollowSettings
from latentsync.faces.track import TrackedFrame, TrackSettings, track
from latentsync.files import whole_or_nothing
from latentsync.media.write import VideoWriter
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.runtime import stage_threads
from latentsync.sync.finish import FinishedFrame, finish
from latentsync.sync.generate import Sampling, batch_windows, cut_crops, generate
from latentsync.sync.job import SyncJob, SyncResult
from latentsync.sync.plan import Setup, claimed, find_first_face, plan_lines, prepare
from latentsync.sync.stages import Background, Meter
from latentsync.sync.timeline import SquarePixels, play
from latentsync.weights.models import LipModel, load_model

__all__ = ["SyncJob", "SyncResult", "run"]
NEAR_FRAMES = 8  # between stages that share the processor, where running ahead gains nothing
ENCODE_FRAMES = 4  # finished pictures that wait for the encoder, which has a queue of its own


@dataclass(slots=True)
class _Tally:
    """Counts frames as they are written, and remembers where there was no face."""

    frames: int = 0
    with_face: int = 0
    bridged: int = 0
    untouched: list[tuple[float, float]] = field(default_factory=list)
    end_s: float = 0.0

    def add(self, finished: FinishedFrame, period_s: float) -> None:
        self.frames += 1
        self.bridged += finished.is_interpolated
        self.end_s = finished.time_s + period_s
        if finished.has_face:
            self.with_face += 1
            return
        start_s = finished.time_s
        if self.untouched and start_s - self.untouched[-1][1] < period_s / 2:
            start_s = self.untouched.pop()[0]
        self.untouched.append((start_s, self.end_s))

    def spans(self) -> tuple[tuple[float, float], ...]:
        return tuple((round(start, 2), round(end, 2)) for start, end in self.untouched)


def run(job: SyncJob, recipe: SyncRecipe, report: Report, *, model: LipModel | None = None) -> SyncResult:
    """Make the output of `job`; it appears whole or not at all.

    Args:
        model: a loaded model, for many jobs in a row; None loads `job.model`.

    Raises:
        UsageError: the output exists, or the flags do not fit together.
        MediaError: a file cannot be read or written.
        FaceError: there is no face, or not the one that was asked for.
        WeightsError: the model is missing, damaged or another network's.
    """
    started = time.monotonic()
    tally, meter = _Tally(), Meter()
    try:
        meter.switch("prepare")
        setup = prepare(job, recipe, model, report)
        meter.switch("first face")
        find_first_face(setup, report)
        report(Plan(plan_lines(setup)))
        if not job.dry_run:
            with claimed(job.output), stage_threads():
                _make(setup, model, tally, report, meter)
    finally:
        meter.switch("")
    for start_s, end_s in tally.spans():
        report(Note(f"no face from {start_s:.2f} s to {end_s:.2f} s: left as it was", "warning"))
    result = SyncResult(
        output=None if job.dry_run else job.output,
        model=setup.spec.name,
        device=setup.device.type,
        effort=recipe.sampling.effort,
        steps=setup.sampling.steps,
        guidance=setup.sampling.guidance,
        frames=setup.frames if job.dry_run else tally.frames,
        frames_with_face=tally.with_face,
        bridged=tally.bridged,
        untouched=tally.spans(),
        duration_s=setup.frames / float(setup.fps) if job.dry_run else tally.end_s,
        took_s=time.monotonic() - started,
        stages=meter.stages,
    )
    if job.report is not None and not job.dry_run:
        _write_report(job.report, result, recipe)
    return result


def _make(setup: Setup, model: LipModel | None, tally: _Tally, report: Report, meter: Meter) -> None:
    report(Progress("loading", 0, setup.frames))
    with closing(_finished(setup, model, meter)) as finished_frames:  # whatever happens, its threads end here
        for finished in _written(setup, finished_frames):
            tally.add(finished, float(1 / setup.fps))
            report(Progress("sync", tally.frames, max(setup.frames, tally.frames)))


def _finished(setup: Setup, model: LipModel | None, meter: Meter) -> Generator[FinishedFrame, None, None]:
    """All frames of the output in order: tracking, denoising and pasting run in a thread of their own each.

    The model is loaded while the first frames are decoded and tracked.
    """
    recipe = setup.recipe
    ahead = queue_frames(setup.sampling, setup.spec.resolution, setup.device)
    tracked_frames = meter.through("track", _tracked(setup, meter))
    cuts = meter.through(
        "cut", cut_crops(tracked_frames, fade_frames=round(recipe.paste.fade_s * float(setup.fps)))
    )
    with Background(cuts, capacity=ahead, stage="cut", meter=meter) as crops:
        meter.switch("load")
        model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
        mask = mouth_mask(setup.spec.resolution, setup.job.mask)
        meter.switch("encode")
        made = generate(crops, model, _encode_speech(setup, model), mask, setup.sampling)
        made = meter.through("generate", made)
        with Background(made, capacity=ahead, stage="generate", meter=meter) as generated:
            pasted = meter.through("paste", finish(generated, setup))
            with Background(pasted, capacity=ENCODE_FRAMES, stage="paste", meter=meter) as finished_frames:
                yield from finished_frames


def queue_frames(sampling: Sampling, side_px: int, device: torch.device) -> int:
    """How many frames may wait before and behind the networks.

    Two batches where they have a device of their own, which must not stand still while a batch is gathered.
    """
    if device.type == "cpu":
        return NEAR_FRAMES
    return 2 * sampling.window_frames * batch_windows(sampling, side_px, device)


def _tracked(setup: Setup, meter: Meter) -> Iterator[TrackedFrame]:
    """The frames of the output, with the face followed through them."""
    job, recipe, info = setup.job, setup.recipe, setup.info
    frames = play(
        job.video,
        info,
        policy=job.duration,
        duration_s=setup.duration_s,
        start_s=job.start_s,
        end_s=job.end_s,
        track=job.video_track,
        fps=setup.fps,
    )
    settings = TrackSettings(
        smoothing="released" if setup.sampling.is_exact else "steady",
        sigma_s=recipe.faces.smoothing_s,
        gap_frames=recipe.faces.max_gap_frames,
        follow=FollowSettings(check_every_frames=recipe.faces.detect_every_frames),
    )
    pixels = SquarePixels(info)
    tracked_frames = track(
        pixels.squared(meter.through("decode", frames)),
        choice=pixels.choice(job.face),
        resolution=setup.spec.resolution,
        detector=setup.detector,
        landmarker=setup.landmarker,
        settings=settings,
    )
    return pixels.restored(tracked_frames)


def _encode_speech(setup: Setup, model: LipModel) -> SpeechStates:
    samples = setup.speech.samples
    if setup.duration_s > setup.speech.duration_s:  # silence after the last word closes the mouth
        samples = np.pad(samples, (0, AUDIO_HZ // 2))
    return SpeechStates(model.whisper, samples, mode=setup.recipe.audio.mode)


def _written(setup: Setup, finished_frames: Iterator[FinishedFrame]) -> Iterator[FinishedFrame]:
    """Encode and pass on each frame; the output gets its name after the last one."""
    job, info = setup.job, setup.info
    height, width = setup.size
    is_speech_cut = job.duration == "video" and not info.is_picture
    with VideoWriter(
        job.output,
        width=width,
        height=height,
        fps=setup.fps,
        like=info,
        speech=job.speech,
        encoding=setup.encoding,
        duration_s=setup.duration_s if is_speech_cut else None,
        audio_track=job.audio_track,
        replaces=job.force,
    ) as writer:
        for finished in finished_frames:
            writer.write(finished.rgb_u8, finished.time_s if info.is_variable else None)
            yield finished


def _write_report(path: Path, result: SyncResult, recipe: SyncRecipe) -> None:
    """Everything needed to know and repeat what was done, as JSON."""
    text = json.dumps(
        {
            "latentsync": __version__,
            **result.as_dict(),
            "stages": {
                stage: {name: round(value, 3) for name, value in asdict(spent).items()}
                for stage, spent in result.stages.items()
            },
            "recipe": dump_recipe(recipe),
        },
        indent=2,
        ensure_ascii=False,
    )
    try:
        with whole_or_nothing(path) as part:  # bytes of a name that are not UTF-8 are escaped
            part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise MediaError(
            f"'{path}': cannot be written ({error.strerror})", hint="choose another --report"
        ) from error
