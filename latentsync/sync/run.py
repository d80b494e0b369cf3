"""Drives the mouth in a video with speech: the `sync` command's core."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync import __version__
from latentsync.audio.whisper import SpeechStates
from latentsync.diffusion.view import ViewName, shown_part
from latentsync.errors import MediaError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.faces.follow import FollowSettings
from latentsync.faces.paste import (
    FEATHER,
    OUTLINE_PX,
    SMOOTH_PX,
    face_region,
    match_colours,
    paste,
    still_skin,
)
from latentsync.faces.track import TrackedFrame, TrackSettings, track
from latentsync.files import whole_or_nothing
from latentsync.media.write import VideoWriter
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.generate import GeneratedFrame, cut_crops, generate
from latentsync.sync.job import SyncJob, SyncResult
from latentsync.sync.plan import Setup, claimed, find_first_face, plan_lines, prepare
from latentsync.sync.stages import Background
from latentsync.sync.timeline import SquarePixels, play
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel, load_model

__all__ = ["SyncJob", "SyncResult", "run"]
QUEUE_FRAMES = 8


@dataclass(slots=True)
class _Tally:
    """Counts frames as they are written, and remembers where there was no face."""

    frames: int = 0
    with_face: int = 0
    bridged: int = 0
    untouched: list[tuple[float, float]] = field(default_factory=list)
    end_s: float = 0.0

    def add(self, generated: GeneratedFrame, period_s: float) -> None:
        tracked, self.frames = generated.cut.tracked, self.frames + 1
        self.bridged += tracked.is_interpolated
        self.end_s = tracked.frame.time_s + period_s
        if generated.crop is not None:
            self.with_face += 1
            return
        start_s = tracked.frame.time_s
        if self.untouched and start_s - self.untouched[-1][1] < period_s / 2:
            start_s = self.untouched.pop()[0]
        self.untouched.append((start_s, tracked.frame.time_s + period_s))

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
    setup = prepare(job, recipe, model, report)
    find_first_face(setup, report)
    report(Plan(plan_lines(setup)))
    tally = _Tally()
    if not job.dry_run:
        with claimed(job.output):
            _make(setup, model, tally, report)
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
    )
    if job.report is not None and not job.dry_run:
        _write_report(job.report, result, recipe)
    return result


def _make(setup: Setup, model: LipModel | None, tally: _Tally, report: Report) -> None:
    report(Progress("loading", 0, setup.frames))
    model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
    with closing(_generated(setup, model)) as generated_frames:  # whatever happens, its threads end here
        for generated in _written(setup, generated_frames):
            tally.add(generated, float(1 / setup.fps))
            report(Progress("sync", tally.frames, max(setup.frames, tally.frames)))


def _generated(setup: Setup, model: LipModel) -> Generator[GeneratedFrame, None, None]:
    """All frames of the output in order: tracking and denoising run in a thread of their own each."""
    recipe = setup.recipe
    cuts = cut_crops(_tracked(setup), fade_frames=round(recipe.paste.fade_s * float(setup.fps)))
    mask = mouth_mask(setup.spec.resolution, setup.job.mask)
    states = _encode_speech(setup, model)
    with (
        Background(cuts, capacity=QUEUE_FRAMES) as crops,
        Background(generate(crops, model, states, mask, setup.sampling), capacity=QUEUE_FRAMES) as generated,
    ):
        yield from generated


def _tracked(setup: Setup) -> Iterator[TrackedFrame]:
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
        pixels.squared(frames),
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


def _written(setup: Setup, generated_frames: Iterator[GeneratedFrame]) -> Iterator[GeneratedFrame]:
    """Paste, encode and pass on each frame; the output gets its name after the last one."""
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
        for generated in generated_frames:
            time_s = generated.cut.tracked.frame.time_s if info.is_variable else None
            writer.write(_finished(generated, setup), time_s)
            yield generated


def _finished(generated: GeneratedFrame, setup: Setup) -> FrameImage:
    """The frame with its new mouth, beside the source if that is wanted."""
    tracked, strength = generated.cut.tracked, generated.cut.strength
    source_u8 = result_u8 = tracked.frame.rgb_u8
    if generated.crop is not None and tracked.affine is not None:
        result_u8 = _pasted(generated, setup)
        if strength < 1:
            mixed = cv2.addWeighted(result_u8, strength, source_u8, 1 - strength, 0)
            result_u8 = np.asarray(mixed, np.uint8)
    return np.concatenate([source_u8, result_u8], axis=1) if setup.job.compare else result_u8


def _pasted(generated: GeneratedFrame, setup: Setup) -> FrameImage:
    crop, cut, region = generated.crop, generated.cut, setup.recipe.paste.region
    affine, face = cut.tracked.affine, cut.tracked.face
    assert crop is not None and cut.crop_u8 is not None and affine is not None and face is not None
    if region == "crop":
        return paste(cut.tracked.frame.rgb_u8, crop, affine, region="crop")
    side = affine.resolution
    outline_px, compared_px = (
        (side, side) if setup.sampling.is_exact else (min(side, OUTLINE_PX), min(side, SMOOTH_PX))
    )
    shown, generated_part = _parts(setup.spec.view, side, compared_px)
    outline = cv2.resize(face_region(face.points, affine, side_px=outline_px), (side, side))
    compared = generated_part * still_skin(face.points, affine, side_px=compared_px)
    matched = match_colours(crop, cut.crop_u8, compared)
    return paste(cut.tracked.frame.rgb_u8, matched, affine, within=shown * outline)


@lru_cache(maxsize=4)
def _parts(view: ViewName, side_px: int, compared_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where what was made is shown (h w), and what is made at all, at the size at which it is compared."""
    shown, made = shown_part(view, side_px, feather=FEATHER)
    return shown, np.asarray(
        cv2.resize(made, (compared_px, compared_px), interpolation=cv2.INTER_AREA), np.float32
    )


def _write_report(path: Path, result: SyncResult, recipe: SyncRecipe) -> None:
    """Everything needed to know and repeat what was done, as JSON."""
    text = json.dumps(
        {"latentsync": __version__, **result.as_dict(), "recipe": dump_recipe(recipe)},
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
