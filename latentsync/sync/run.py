"""Makes the mouth in a video follow speech: the core of the `sync` command."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync import __version__
from latentsync.audio.whisper import SpeechStates
from latentsync.audio.windows import StateSource
from latentsync.diffusion.view import ViewName, shown_part
from latentsync.events import Note, Plan, Progress, Report, format_duration
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
from latentsync.media.carry import Carried
from latentsync.media.mix import mix_sound
from latentsync.media.pixels import labelled
from latentsync.media.probe import probe
from latentsync.media.write import VideoWriter
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.generate import GeneratedFrame, cut_crops, generate
from latentsync.sync.job import SyncedFrames, SyncJob, SyncResult
from latentsync.sync.pace import Pace, Stopwatch
from latentsync.sync.plan import Setup, claimed, find_first_face, plan_lines, prepare
from latentsync.sync.report import write_report
from latentsync.sync.stages import Background
from latentsync.sync.timeline import SquarePixels, play
from latentsync.sync.wav2lip import MelColumns
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel, load_model

__all__ = ["SyncJob", "SyncResult", "SyncedFrames", "make_frames", "run"]
QUEUE_FRAMES = 8
# After the IPTC's word for a picture of which a part was made by a trained network.
MARK = f"synthetic mouth, latentsync {__version__}; digitalSourceType: compositeWithTrainedAlgorithmicMedia"


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
        # Frames in a row make one span; half a frame is room for rounding.
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
    if job.output is None:
        raise ValueError("a job without an output has frames only: see make_frames")
    started = time.monotonic()
    setup = prepare(job, recipe, model, report)
    find_first_face(setup, report)
    report(Plan(plan_lines(setup)))
    tally, times = _Tally(), Stopwatch()
    times.add("preparing", time.monotonic() - started)
    if job.dry_run:
        report(Plan((f"time    {estimate(setup, model)}",)))
    else:
        with claimed(job.output):
            _make(setup, job.output, model, tally, times, report)
    for start_s, end_s in tally.spans():
        report(
            Note(f"no face from {start_s:.2f} s to {end_s:.2f} s: the source is left unchanged", "warning")
        )
    result = SyncResult(
        output=None if job.dry_run else job.output,
        model=setup.spec.name,
        device=str(setup.device),
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
        write_report(job.report, setup, result, times, report)
    return result


def render_start(setup: Setup, output: Path, most_s: float, report: Report) -> float:
    """Write the first `most_s` seconds of a result to `output`; gives its length in seconds."""
    tally = _Tally()
    with claimed(output):
        begun = replace(setup, duration_s=min(setup.duration_s, most_s))
        _make(begun, output, None, tally, Stopwatch(), report)
    return tally.end_s


def estimate(setup: Setup, model: LipModel | None) -> str:
    """How long the run will take, in words: the speed is measured on its first two windows."""
    pace = Pace(setup.frames, setup.sampling.window_frames)
    started = time.monotonic()
    model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
    loading_s = time.monotonic() - started
    with closing(_generated(setup, model, Stopwatch())) as generated_frames:
        for done, generated in enumerate(generated_frames, 1):
            _finished(generated, setup)
            if pace.add(done):
                return f"about {pace.describe(0)}, and {loading_s:.0f} s to load"
    return f"about {format_duration(time.monotonic() - started)}"


def make_frames(job: SyncJob, recipe: SyncRecipe, report: Report, *, model: LipModel) -> SyncedFrames:
    """Give the frames of a job without an output to the caller instead of writing them.

    What `run` would refuse is refused here, before the first frame is asked for.
    """
    setup = prepare(job, recipe, model, report)
    find_first_face(setup, report)
    report(Plan(plan_lines(setup)))
    height, width = setup.size
    return SyncedFrames(float(setup.fps), setup.frames, height, width, _images(setup, model, report))


def _images(setup: Setup, model: LipModel, report: Report) -> Iterator[FrameImage]:
    with closing(_generated(setup, model, Stopwatch())) as generated_frames:
        for done, generated in enumerate(generated_frames, 1):
            report(Progress("sync", done, max(setup.frames, done)))
            yield labelled(_finished(generated, setup), setup.job.label)


def _make(
    setup: Setup, output: Path, model: LipModel | None, tally: _Tally, times: Stopwatch, report: Report
) -> None:
    report(Progress("loading", 0, None))
    started = time.monotonic()
    model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
    times.add("loading", time.monotonic() - started)
    pace = Pace(setup.frames, setup.sampling.window_frames)
    with closing(_generated(setup, model, times)) as generated_frames:  # its threads end here
        waiting = times.of("waiting for generation", generated_frames)
        for generated in times.of("writing", _written(setup, output, waiting)):
            tally.add(generated, float(1 / setup.fps))
            pace.note(tally.frames, report)
            report(Progress("sync", tally.frames, max(setup.frames, tally.frames)))


def _generated(setup: Setup, model: LipModel, times: Stopwatch) -> Generator[GeneratedFrame, None, None]:
    """All frames of the output in order: tracking and denoising run in a thread of their own each."""
    recipe = setup.recipe
    cuts = cut_crops(_tracked(setup), fade_frames=round(recipe.paste.fade_s * float(setup.fps)))
    mask = mouth_mask(setup.spec.resolution, setup.job.mask)
    states = _encode_speech(setup, model)
    with Background(times.of("tracking", cuts), capacity=QUEUE_FRAMES) as crops:
        waiting = times.of("waiting for tracking", crops)
        frames = times.of("generating", generate(waiting, model, states, mask, setup.sampling))
        with Background(frames, capacity=QUEUE_FRAMES) as generated:
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


def _encode_speech(setup: Setup, model: LipModel) -> StateSource:
    samples = setup.speech.samples
    if setup.duration_s > setup.speech.duration_s:  # silence after the last word closes the mouth
        samples = np.pad(samples, (0, AUDIO_HZ // 2))
    if model.wav2lip is not None:
        return MelColumns(samples)
    return SpeechStates(model.whisper, samples, mode=setup.recipe.audio.mode)


def _written(
    setup: Setup, output: Path, generated_frames: Iterator[GeneratedFrame]
) -> Iterator[GeneratedFrame]:
    """Paste, encode and pass on each frame; the output gets its name after the last one."""
    job, info = setup.job, setup.info
    height, width = setup.size
    is_speech_cut = setup.duration_s < setup.speech.duration_s
    with ExitStack() as stack:
        mixed = _mixed_sound(setup, stack)
        writer = stack.enter_context(
            VideoWriter(
                output,
                width=width,
                height=height,
                fps=setup.fps,
                like=info,
                speech=mixed or job.speech,
                encoding=setup.encoding,
                duration_s=setup.duration_s if is_speech_cut and not mixed else None,
                audio_track=None if mixed else job.audio_track,
                carried=None if info.is_picture else Carried(job.video, job.start_s, _source_s(setup)),
                mark=MARK if job.mark else "",
                replaces=job.force,
            )
        )
        for generated in generated_frames:
            # At a constant rate the times follow from the numbers, without rounding.
            time_s = generated.cut.tracked.frame.time_s if info.is_variable else None
            writer.write(labelled(_finished(generated, setup), job.label), time_s)
            yield generated


def _source_s(setup: Setup) -> float:
    """For how long the result shows the video for the first time."""
    end_s = min(setup.info.duration_s, setup.job.end_s or setup.info.duration_s)
    return min(setup.duration_s, end_s - setup.job.start_s)


def _mixed_sound(setup: Setup, stack: ExitStack) -> Path | None:
    """The speech over the original sound, in a file that lasts as long as `stack`; None: the speech alone."""
    job, info = setup.job, setup.info
    if job.keep_audio.rule == "replace" or info.is_picture:
        return None
    sound = probe(job.video).audio
    if sound is None:
        return None
    path = Path(stack.enter_context(TemporaryDirectory(prefix="latentsync-"))) / "mixed.m4a"
    mix_sound(
        job.speech,
        job.video,
        path,
        keep=job.keep_audio,
        duration_s=setup.duration_s,
        skip_s=job.start_s + info.start_s - sound.start_s,
        original_s=_source_s(setup),
        speech_track=job.audio_track,
    )
    return path


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
        # As released: the whole square, with its own colours.
        return paste(cut.tracked.frame.rgb_u8, crop, affine, region="crop")
    side = affine.resolution
    # Outline and colours change slowly, so small pictures do; exact mode takes full size.
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
