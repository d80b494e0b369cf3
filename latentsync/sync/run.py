"""Drives the mouth in a video with speech: the `sync` command's core."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync import __version__
from latentsync.audio.whisper import SpeechStates
from latentsync.diffusion.view import ViewName, paste_masks
from latentsync.errors import FaceError, MediaError, UsageError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.paste import FEATHER, face_region, match_surroundings, paste
from latentsync.faces.track import TrackSettings, track
from latentsync.media.probe import VideoInfo, require_audio, require_video
from latentsync.media.read import read_audio, read_frames
from latentsync.media.write import Encoding, VideoWriter
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.schema import SyncRecipe
from latentsync.runtime import DeviceName, DtypeName, choose_device, choose_dtype
from latentsync.sync.effort import choose_sampling, describe_sampling
from latentsync.sync.generate import GeneratedFrame, Sampling, cut_crops, generate
from latentsync.sync.stages import Background
from latentsync.sync.timeline import Duration, frame_count, play
from latentsync.types import FrameImage
from latentsync.weights.models import DEFAULT_MODEL, LipModel, ModelSpec, find_model, load_model

LOOK_EVERY_S = 0.4  # how densely the video is searched for its first face before anything is loaded
QUEUE_FRAMES = 8
SAMPLES_PER_S = 16_000  # what Whisper hears


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJob:
    """What to work on and where.

    start_s, end_s  the part of the video that is used
    duration        how long the output is, and what follows when the video is shorter; see `timeline.play`
    compare         put the source beside the result
    mask            picture of the mouth mask (white = kept); None: the drawn one
    """

    video: Path
    speech: Path
    output: Path
    model: str = DEFAULT_MODEL
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    face: FaceChoice = field(default_factory=FaceChoice)
    start_s: float = 0.0
    end_s: float | None = None
    duration: Duration = "speech"
    compare: bool = False
    mask: Path | None = None
    report: Path | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What was made, and how the latents were denoised.

    untouched  spans in seconds of the output where there was no face, so that the source shows
    bridged    frames whose face was interpolated between its neighbours
    """

    output: Path | None
    model: str
    device: str
    effort: str
    steps: int
    guidance: float
    frames: int
    frames_with_face: int
    bridged: int
    untouched: tuple[tuple[float, float], ...]
    duration_s: float
    took_s: float

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return {
            "output": None if self.output is None else str(self.output),
            "model": self.model,
            "device": self.device,
            "effort": self.effort,
            "steps": self.steps,
            "guidance": self.guidance,
            "frames": self.frames,
            "frames_with_face": self.frames_with_face,
            "bridged_frames": self.bridged,
            "untouched_s": [list(span) for span in self.untouched],
            "duration_s": round(self.duration_s, 3),
            "took_s": round(self.took_s, 2),
        }


@dataclass(slots=True)
class _Tally:
    """Counts frames as they are written, and remembers where there was no face."""

    frames: int = 0
    with_face: int = 0
    bridged: int = 0
    untouched: list[tuple[float, float]] | None = None

    def add(self, generated: GeneratedFrame, period_s: float) -> None:
        tracked, self.frames = generated.cut.tracked, self.frames + 1
        self.bridged += tracked.is_interpolated
        if generated.crop is not None:
            self.with_face += 1
            return
        start_s = tracked.frame.time_s
        spans = self.untouched = self.untouched or []
        if spans and start_s - spans[-1][1] < period_s / 2:
            start_s = spans.pop()[0]
        spans.append((start_s, tracked.frame.time_s + period_s))

    def spans(self) -> tuple[tuple[float, float], ...]:
        return tuple((round(start, 2), round(end, 2)) for start, end in self.untouched or [])


@dataclass(frozen=True, slots=True)
class _Setup:
    """A job with everything that was found out before it starts."""

    job: SyncJob
    recipe: SyncRecipe
    info: VideoInfo
    spec: ModelSpec
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype
    speech_s: float
    duration_s: float
    detector: Detector
    landmarker: Landmarker

    @property
    def frames(self) -> int:
        return frame_count(self.duration_s, float(self.info.fps))


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
    setup = _prepare(job, recipe, model)
    _find_first_face(setup, report)
    report(Plan(_plan_lines(setup)))
    tally = _Tally()
    if not job.dry_run:
        report(Progress("loading", 0, setup.frames))
        model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
        with closing(_generated(setup, model)) as generated_frames:  # whatever happens, its threads end here
            for generated in _written(setup, generated_frames):
                tally.add(generated, float(1 / setup.info.fps))
                report(Progress("sync", tally.frames, max(setup.frames, tally.frames)))
    for start_s, end_s in tally.spans():
        report(Note(f"no face from {start_s:.2f} s to {end_s:.2f} s: left as it was", "warning"))
    frames = setup.frames if job.dry_run else tally.frames
    result = SyncResult(
        output=None if job.dry_run else job.output,
        model=setup.spec.name,
        device=setup.device.type,
        effort=recipe.sampling.quality,
        steps=setup.sampling.steps,
        guidance=setup.sampling.guidance,
        frames=frames,
        frames_with_face=tally.with_face,
        bridged=tally.bridged,
        untouched=tally.spans(),
        duration_s=frames / float(setup.info.fps),
        took_s=time.monotonic() - started,
    )
    if job.report is not None and not job.dry_run:
        _write_report(job.report, result, recipe)
    return result


def _prepare(job: SyncJob, recipe: SyncRecipe, model: LipModel | None) -> _Setup:
    info, speech_s = _check(job)
    spec = model.spec if model else find_model(job.model, resolution=recipe.sampling.resolution)
    device = model.device if model else choose_device(job.device)
    dtype = model.dtype if model else choose_dtype(job.dtype, device)
    duration_s = _duration_s(job, info, speech_s)
    finders = Detector(), choose_landmarker()
    sampling = choose_sampling(recipe, spec)
    return _Setup(job, recipe, info, spec, sampling, device, dtype, speech_s, duration_s, *finders)


def _check(job: SyncJob) -> tuple[VideoInfo, float]:
    """Look at the files before anything slow is loaded; returns the video and the seconds of speech."""
    info, speech_s = require_video(job.video), require_audio(job.speech).duration_s
    for path in (job.output, *([job.report] if job.report else [])):
        try:
            _check_output(path, job)
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise MediaError(
                f"'{path}' cannot be written: {error.strerror}", hint="choose another name"
            ) from error
    if job.report is not None and job.report.absolute() == job.output.absolute():
        raise UsageError(f"'{job.report}': is the output of this run, too", hint="name another --report")
    if not job.start_s >= 0 or (job.end_s is not None and not job.end_s > job.start_s):  # also not a number
        raise UsageError(
            f"--start {job.start_s} --end {job.end_s}: empty part", hint="let --end be after --start"
        )
    if not info.is_picture and job.start_s >= info.duration_s:
        raise UsageError(
            f"--start {job.start_s}: '{job.video}' ends at {info.duration_s:.2f} s", hint="start earlier"
        )
    return info, speech_s


def _check_output(path: Path, job: SyncJob) -> None:
    """Refuse a place that is taken or cannot be written."""
    if path.exists() and any(path.samefile(source) for source in (job.video, job.speech)):
        raise UsageError(f"'{path}': is an input of this run", hint="name another output")
    if path.is_dir():
        raise UsageError(f"'{path}': is a folder", hint="name a file")
    if path.exists() and not job.force:
        raise UsageError(f"'{path}': exists already", hint="add --force to replace it, or name another")
    if not os.access(path.parent, os.W_OK):
        found = "cannot be written" if path.parent.is_dir() else "does not exist"
        raise MediaError(f"'{path.parent}': this folder {found}", hint="write to another folder")


def _duration_s(job: SyncJob, info: VideoInfo, speech_s: float) -> float:
    """How long the output is."""
    if job.duration != "video" or info.is_picture:
        return speech_s
    return min(info.duration_s, job.end_s or info.duration_s) - job.start_s


def _find_first_face(setup: _Setup, report: Report) -> None:
    """Search a few frames a second for a face, so that a video without one fails at once."""
    job, fps = setup.job, float(setup.info.fps)
    settings = FollowSettings(check_every_frames=sys.maxsize)  # look in every frame that is shown to it
    follower = Follower(job.face, setup.detector, setup.landmarker, settings)
    every, seen = max(1, round(LOOK_EVERY_S * fps)), 0
    for frame in read_frames(job.video, start_s=job.start_s, end_s=job.end_s):
        seen += 1
        if frame.index % every == 0:
            report(Progress("looking for a face", seen, setup.info.frames))
            try:
                if follower.see(frame).points is not None:
                    return
            except FaceError as error:  # --face asks for one that is not there
                raise FaceError(f"'{job.video}': {error}", hint=error.hint) from error
    if seen == 0:
        raise MediaError(f"'{job.video}': no picture could be decoded", hint="give another video")
    looked = -(-seen // every)
    raise FaceError(
        f"'{job.video}': no face in any of {looked} frames looked at over {seen / fps:.1f} s",
        hint="give a video that shows a real face from the front, at least 40 pixels wide",
    )


def _plan_lines(setup: _Setup) -> tuple[str, ...]:
    job, info = setup.job, setup.info
    source = "still picture" if info.is_picture else f"{float(info.fps):.6g} fps, {info.duration_s:.2f} s"
    number_format = str(setup.dtype).split(".")[-1]
    return (
        f"model   {setup.spec.name}: {setup.spec.note}",
        f"device  {setup.device.type} {number_format}, {setup.spec.resolution} px",
        f"effort  {describe_sampling(setup.recipe, setup.sampling)}",
        f"video   {job.video} ({info.width}x{info.height}, {source})",
        f"speech  {job.speech} ({setup.speech_s:.2f} s)",
        f"output  {job.output} ({setup.frames} frames, {setup.duration_s:.2f} s)",
    )


def _generated(setup: _Setup, model: LipModel) -> Generator[GeneratedFrame, None, None]:
    """All frames of the output in order: tracking and denoising run in a thread of their own each."""
    job, recipe, info = setup.job, setup.recipe, setup.info
    frames = play(
        job.video,
        info,
        policy=job.duration,
        duration_s=setup.duration_s,
        start_s=job.start_s,
        end_s=job.end_s,
    )
    settings = TrackSettings(
        smoothing="released" if setup.sampling.is_exact else "steady",
        sigma_s=recipe.faces.smoothing_s,
        gap_frames=recipe.faces.max_gap_frames,
        follow=FollowSettings(check_every_frames=recipe.faces.detect_every_frames),
    )
    tracked = track(
        frames,
        choice=job.face,
        resolution=setup.spec.resolution,
        detector=setup.detector,
        landmarker=setup.landmarker,
        settings=settings,
    )
    cuts = cut_crops(tracked, fade_frames=round(recipe.paste.fade_s * float(info.fps)))
    mask = mouth_mask(setup.spec.resolution, job.mask)
    states = _encode_speech(setup, model)
    with (
        Background(cuts, capacity=QUEUE_FRAMES) as crops,
        Background(generate(crops, model, states, mask, setup.sampling), capacity=QUEUE_FRAMES) as generated,
    ):
        yield from generated


def _encode_speech(setup: _Setup, model: LipModel) -> SpeechStates:
    samples = read_audio(setup.job.speech).samples
    if setup.duration_s > len(samples) / SAMPLES_PER_S:  # silence after the last word closes the mouth
        samples = np.pad(samples, (0, SAMPLES_PER_S // 2))
    return SpeechStates(model.whisper, samples, mode=setup.recipe.audio.mode)


def _written(setup: _Setup, generated_frames: Iterator[GeneratedFrame]) -> Iterator[GeneratedFrame]:
    """Paste, encode and pass on each frame; the output gets its name after the last one."""
    job, info, encoded = setup.job, setup.info, setup.recipe.encoding
    with VideoWriter(
        job.output,
        width=info.width * (2 if job.compare else 1),
        height=info.height,
        fps=info.fps,
        like=info,
        speech=job.speech,
        encoding=Encoding(codec=encoded.codec, crf=encoded.crf, preset=encoded.preset),
        duration_s=setup.duration_s,
    ) as writer:
        for generated in generated_frames:
            time_s = generated.cut.tracked.frame.time_s if info.is_variable else None
            writer.write(_finished(generated, setup), time_s)
            yield generated


def _finished(generated: GeneratedFrame, setup: _Setup) -> FrameImage:
    """The frame with its new mouth, beside the source if that is wanted."""
    tracked, strength = generated.cut.tracked, generated.cut.strength
    source_u8 = result_u8 = tracked.frame.rgb_u8
    if generated.crop is not None and tracked.affine is not None:
        result_u8 = _pasted(generated, setup)
        if strength < 1:
            mixed = cv2.addWeighted(result_u8, strength, source_u8, 1 - strength, 0)
            result_u8 = np.asarray(mixed, np.uint8)
    return np.concatenate([source_u8, result_u8], axis=1) if setup.job.compare else result_u8


def _pasted(generated: GeneratedFrame, setup: _Setup) -> FrameImage:
    crop, cut, region = generated.crop, generated.cut, setup.recipe.paste.region
    affine, face = cut.tracked.affine, cut.tracked.face
    assert crop is not None and cut.crop_u8 is not None and affine is not None and face is not None
    if region == "crop":
        return paste(cut.tracked.frame.rgb_u8, crop, affine, region="crop")
    shown, compared = _masks(setup.spec.view, affine.resolution, setup.job.mask)
    within = shown * face_region(face.points, affine)
    # Only what is well inside the face counts, so that no colour of the background or the collar comes in.
    skin = np.clip(2 * face_region(face.points, affine, below=0.0) - 1, 0, 1)
    matched = match_surroundings(crop, cut.crop_u8, skin * compared)
    return paste(cut.tracked.frame.rgb_u8, matched, affine, within=within)


@lru_cache(maxsize=4)
def _masks(
    view: ViewName, resolution: int, file: Path | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return paste_masks(view, mouth_mask(resolution, file), feather=FEATHER)


def _write_report(path: Path, result: SyncResult, recipe: SyncRecipe) -> None:
    """Everything needed to know and repeat what was done, as JSON."""
    text = json.dumps(
        {"latentsync": __version__, **result.as_dict(), "recipe": dump_recipe(recipe)},
        indent=2,
        ensure_ascii=False,
    )
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MediaError(
            f"'{path}': cannot be written ({error.strerror})", hint="choose another --report"
        ) from error
