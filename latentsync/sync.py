"""Drives the mouth in a video with speech: the `sync` command's core."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync import __version__
from latentsync.errors import FaceError, MediaError, UsageError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.faces.choice import FaceChoice
from latentsync.media.probe import VideoInfo, require_audio, require_video
from latentsync.media.read import read_audio, read_frames
from latentsync.media.write import Encoding, VideoWriter
from latentsync.pipeline.timeline import Duration, frame_count, play
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.schema import SyncRecipe
from latentsync.types import FrameImage
from latentsync.weights.store import DEFAULT_MODEL, ModelSpec, find_model

if TYPE_CHECKING:
    from latentsync.pipeline.generate import SpokenFrame
    from latentsync.runtime import DeviceName, DtypeName

LOOK_EVERY_S = 0.4  # how densely the video is searched for its first face before anything is loaded
QUEUE_FRAMES = 8


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
    face: FaceChoice = FaceChoice()
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
    """What was made.

    untouched  spans in seconds of the output where there was no face, so that the source shows
    bridged    frames whose face was interpolated between its neighbours
    """

    output: Path | None
    model: str
    device: str
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

    def add(self, spoken: SpokenFrame, period_s: float) -> None:
        tracked, self.frames = spoken.cut.tracked, self.frames + 1
        self.bridged += tracked.is_interpolated
        if spoken.crop is not None:
            self.with_face += 1
            return
        start_s = tracked.frame.time_s
        spans = self.untouched = self.untouched or []
        if spans and start_s - spans[-1][1] < period_s / 2:
            start_s = spans.pop()[0]
        spans.append((start_s, tracked.frame.time_s + period_s))

    def spans(self) -> tuple[tuple[float, float], ...]:
        return tuple((round(start, 2), round(end, 2)) for start, end in self.untouched or [])


def run(job: SyncJob, recipe: SyncRecipe, report: Report) -> SyncResult:
    """Make the output of `job`; it appears whole or not at all.

    Raises:
        UsageError: the output exists, or the flags do not fit together.
        MediaError: a file cannot be read or written.
        FaceError: there is no face, or not the one that was asked for.
        WeightsError: the model is missing, damaged or another network's.
    """
    started = time.monotonic()
    info = _check(job)
    spec = find_model(job.model, resolution=recipe.sampling.resolution)
    duration_s = _duration_s(job, info)
    _find_first_face(job, info, report)

    from latentsync.runtime import choose_device, choose_dtype

    device = choose_device(job.device)
    dtype = choose_dtype(job.dtype, device)
    frames = frame_count(duration_s, float(info.fps))
    report(
        Plan(_plan_lines(job, recipe, spec, f"{device.type} {str(dtype).split('.')[-1]}", info, duration_s))
    )
    tally = _Tally()
    if not job.dry_run:
        for spoken in _write(
            job, recipe, info, _spoken(job, recipe, info, spec, duration_s, report), duration_s
        ):
            tally.add(spoken, float(1 / info.fps))
            report(Progress("sync", tally.frames, max(frames, tally.frames)))
    for start_s, end_s in tally.spans():
        report(Note(f"no face from {start_s:.2f} s to {end_s:.2f} s: left as it was", "warning"))
    result = SyncResult(
        output=None if job.dry_run else job.output,
        model=spec.name,
        device=device.type,
        frames=frames if job.dry_run else tally.frames,
        frames_with_face=tally.with_face,
        bridged=tally.bridged,
        untouched=tally.spans(),
        duration_s=duration_s if job.dry_run else tally.frames / float(info.fps),
        took_s=time.monotonic() - started,
    )
    if job.report is not None:
        _write_report(job.report, result, recipe)
    return result


def _check(job: SyncJob) -> VideoInfo:
    """Look at the files before anything slow is loaded."""
    info = require_video(job.video)
    require_audio(job.speech)
    for path in (job.output, *([job.report] if job.report else [])):
        if path.exists() and any(path.samefile(source) for source in (job.video, job.speech)):
            raise UsageError(f"'{path}': is an input of this run", hint="name another output with -o")
        if path.is_dir():
            raise UsageError(f"'{path}': is a folder", hint="name a file")
        if path.exists() and not job.force:
            raise UsageError(
                f"'{path}': exists already", hint="add --force to replace it, or name another with -o"
            )
        if not os.access(path.parent, os.W_OK):
            found = "cannot be written" if path.parent.is_dir() else "does not exist"
            raise MediaError(f"'{path.parent}': this folder {found}", hint="write to another folder with -o")
    if job.start_s < 0 or (job.end_s is not None and job.end_s <= job.start_s):
        raise UsageError(
            f"--start {job.start_s} --end {job.end_s}: empty part", hint="let --end be after --start"
        )
    if not info.is_picture and job.start_s >= info.duration_s:
        raise UsageError(
            f"--start {job.start_s}: '{job.video}' ends at {info.duration_s:.2f} s", hint="start earlier"
        )
    return info


def _duration_s(job: SyncJob, info: VideoInfo) -> float:
    """How long the output is."""
    speech_s = require_audio(job.speech).duration_s
    if job.duration != "video" or info.is_picture:
        return speech_s
    return min(info.duration_s, job.end_s or info.duration_s) - job.start_s


def _find_first_face(job: SyncJob, info: VideoInfo, report: Report) -> None:
    """Search a few frames a second for a face, so that a video without one fails at once."""
    from latentsync.faces.detect import Detector
    from latentsync.faces.follow import Follower, FollowSettings
    from latentsync.faces.landmarks import choose_landmarker

    follower = Follower(job.face, Detector(), choose_landmarker(), FollowSettings())
    every = max(1, round(LOOK_EVERY_S * float(info.fps)))
    seen = 0
    for frame in read_frames(job.video, start_s=job.start_s, end_s=job.end_s):
        seen += 1
        if frame.index % every == 0:
            report(Progress("looking for a face", seen, info.frames))
            if follower.see(frame).points is not None:
                return
    if seen == 0:
        raise MediaError(f"'{job.video}': no picture could be decoded", hint="give another video")
    raise FaceError(
        f"'{job.video}': no face in any of {-(-seen // every)} frames looked at over {seen / float(info.fps):.1f} s",
        hint="give a video that shows a real face from the front, at least 40 pixels wide",
    )


def _plan_lines(
    job: SyncJob, recipe: SyncRecipe, spec: ModelSpec, device: str, info: VideoInfo, duration_s: float
) -> tuple[str, ...]:
    steps = recipe.sampling.steps or spec.steps
    size = f"{info.width}x{info.height}"
    source = "still picture" if info.is_picture else f"{float(info.fps):.6g} fps, {info.duration_s:.2f} s"
    return (
        f"model   {spec.name}: {spec.note}",
        f"device  {device}, {steps} step{'s' if steps > 1 else ''} at {spec.resolution} px",
        f"video   {job.video} ({size}, {source})",
        f"speech  {job.speech} ({require_audio(job.speech).duration_s:.2f} s)",
        f"output  {job.output} ({frame_count(duration_s, float(info.fps))} frames, {duration_s:.2f} s)",
    )


def _spoken(
    job: SyncJob, recipe: SyncRecipe, info: VideoInfo, spec: ModelSpec, duration_s: float, report: Report
) -> Iterator[SpokenFrame]:
    """All frames of the output in order: decoding and tracking, and denoising, each in a thread of its own."""
    import numpy as np

    from latentsync.audio.whisper import SpeechSteps
    from latentsync.faces.align import mouth_mask
    from latentsync.faces.detect import Detector
    from latentsync.faces.landmarks import choose_landmarker
    from latentsync.faces.track import TrackSettings, track
    from latentsync.pipeline.generate import Sampling, cut_crops, speak
    from latentsync.pipeline.stages import Background
    from latentsync.runtime import choose_device, choose_dtype
    from latentsync.weights.store import load_model

    report(Progress("loading", 0, frame_count(duration_s, float(info.fps))))
    device = choose_device(job.device)
    model = load_model(spec, device=device, dtype=choose_dtype(job.dtype, device))
    chosen = recipe.sampling
    is_exact = chosen.mode == "exact"
    overlap = spec.overlap_frames if chosen.overlap_frames is None else chosen.overlap_frames
    sampling = Sampling(
        steps=chosen.steps or spec.steps,
        guidance=spec.guidance if chosen.guidance is None else chosen.guidance,
        window_frames=chosen.window_frames,
        overlap_frames=0 if is_exact else overlap,
        is_exact=is_exact,
        seed=recipe.seed,
    )
    samples = read_audio(job.speech).samples
    if duration_s > len(samples) / 16000:  # the mouth closes after the last word
        samples = np.pad(samples, (0, 8000))
    steps = SpeechSteps(model.whisper, samples, mode=recipe.audio.mode)
    tracked = track(
        play(
            job.video, info, policy=job.duration, duration_s=duration_s, start_s=job.start_s, end_s=job.end_s
        ),
        choice=job.face,
        resolution=spec.resolution,
        detector=Detector(),
        landmarker=choose_landmarker(),
        settings=TrackSettings(
            smoothing="released" if is_exact else "steady",
            sigma_s=recipe.faces.smoothing_s,
            gap_frames=recipe.faces.max_gap_frames,
        ),
    )
    fade_frames = round(recipe.paste.fade_s * float(info.fps))
    with Background(cut_crops(tracked, fade_frames=fade_frames), capacity=QUEUE_FRAMES) as cuts:
        spoken = speak(cuts, model, steps, mouth_mask(spec.resolution, job.mask), sampling)
        with Background(spoken, capacity=QUEUE_FRAMES) as finished:
            yield from finished


def _write(
    job: SyncJob, recipe: SyncRecipe, info: VideoInfo, spoken_frames: Iterator[SpokenFrame], duration_s: float
) -> Iterator[SpokenFrame]:
    """Paste, encode and pass on each frame; the output gets its name after the last one."""
    encoded = recipe.encoding
    with VideoWriter(
        job.output,
        width=info.width * (2 if job.compare else 1),
        height=info.height,
        fps=info.fps,
        like=info,
        speech=job.speech,
        encoding=Encoding(codec=encoded.codec, crf=encoded.crf, preset=encoded.preset),
        duration_s=duration_s,
    ) as writer:
        for spoken in spoken_frames:
            frame = spoken.cut.tracked.frame
            writer.write(_finished(spoken, job, recipe), frame.time_s if info.is_variable else None)
            yield spoken


def _finished(spoken: SpokenFrame, job: SyncJob, recipe: SyncRecipe) -> FrameImage:
    """The frame with its new mouth, beside the source if that is wanted."""
    import cv2
    import numpy as np

    from latentsync.faces.paste import paste

    tracked = spoken.cut.tracked
    source_u8 = tracked.frame.rgb_u8
    result_u8 = source_u8
    if spoken.crop is not None and tracked.affine is not None:
        result_u8 = paste(source_u8, spoken.crop, tracked.affine, region=recipe.paste.region)
        strength = spoken.cut.strength
        if strength < 1:
            result_u8 = np.asarray(cv2.addWeighted(result_u8, strength, source_u8, 1 - strength, 0), np.uint8)
    return np.concatenate([source_u8, result_u8], axis=1) if job.compare else result_u8


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
