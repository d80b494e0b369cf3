"""Makes the mouth in a video follow speech: the core of the `sync` command."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync import __version__
from latentsync.audio.whisper import SpeechStates
from latentsync.audio.windows import StateSource
from latentsync.events import Note, Plan, Progress, Report, format_duration
from latentsync.faces.align import mouth_mask
from latentsync.faces.follow import FollowSettings
from latentsync.faces.track import TrackedFrame, TrackSettings, track
from latentsync.media.carry import Carried
from latentsync.media.mix import mix_sound
from latentsync.media.pixels import labelled
from latentsync.media.probe import probe
from latentsync.media.write import VideoWriter
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.sync import SyncRecipe
from latentsync.runtime import release_memory, stage_threads
from latentsync.sync.denoiser import Sampling, batch_windows
from latentsync.sync.finish import FinishedFrame, finish
from latentsync.sync.generate import CutFrame, Why, cut_crops, generate
from latentsync.sync.job import SyncedFrames, SyncJob, SyncResult
from latentsync.sync.occlusion import choose_marking
from latentsync.sync.pace import Pace
from latentsync.sync.plan import Setup, claimed, find_first_face, plan_lines, prepare, why_untouched
from latentsync.sync.report import write_report
from latentsync.sync.stages import Background, Meter
from latentsync.sync.timeline import SquarePixels, play
from latentsync.sync.wav2lip import MelColumns
from latentsync.types import Frame, FrameImage, unpatched
from latentsync.weights.models import LipModel, load_model

__all__ = ["SyncJob", "SyncResult", "SyncedFrames", "make_frames", "run"]
NEAR_FRAMES = 8  # between stages that share the processor, where running ahead gains nothing
ENCODE_FRAMES = 4  # finished pictures that wait for the encoder, which has a queue of its own
# After the IPTC's word for a picture of which a part was made by a trained network.
MARK = f"synthetic mouth, latentsync {__version__}; digitalSourceType: compositeWithTrainedAlgorithmicMedia"


@dataclass(slots=True)
class _Tally:
    """Counts frames as they are written, and remembers where there was no face."""

    frames: int = 0
    with_face: int = 0
    bridged: int = 0
    of_cast: Counter[str] = field(default_factory=Counter)
    occluded: int = 0
    untouched: dict[Why, list[tuple[float, float]]] = field(default_factory=dict)
    end_s: float = 0.0

    def add(self, finished: FinishedFrame, period_s: float) -> None:
        self.frames += 1
        self.bridged += finished.is_interpolated
        self.occluded += finished.is_occluded
        self.of_cast.update(finished.who)
        self.end_s = finished.time_s + period_s
        if finished.has_face:
            self.with_face += 1
            return
        start_s, spans = finished.time_s, self.untouched.setdefault(finished.why, [])
        # Frames in a row make one span; half a frame is room for rounding.
        if spans and start_s - spans[-1][1] < period_s / 2:
            start_s = spans.pop()[0]
        spans.append((start_s, self.end_s))

    def spans(self, why: Why) -> tuple[tuple[float, float], ...]:
        return tuple((round(start, 2), round(end, 2)) for start, end in self.untouched.get(why, []))


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
    try:
        return _run(job, recipe, report, model)
    finally:
        if model is not None:  # further jobs may follow
            release_memory()


def _run(job: SyncJob, recipe: SyncRecipe, report: Report, model: LipModel | None) -> SyncResult:
    if job.output is None:
        raise ValueError("a job without an output has frames only: see make_frames")
    started = time.monotonic()
    tally, meter = _Tally(), Meter()
    try:
        meter.switch("prepare")
        setup = prepare(job, recipe, model, report)
        meter.switch("first face")
        find_first_face(setup, report)
        report(Plan(plan_lines(setup)))
        if job.dry_run:
            report(Plan((f"time    {estimate(setup, model)}",)))
        else:
            with claimed(job.output), stage_threads():
                _make(setup, job.output, model, tally, meter, report)
    finally:
        meter.switch("")
    for found in tally.untouched:
        why = why_untouched(setup) if found == "no face" else found
        for start_s, end_s in tally.spans(found):
            span = f"from {start_s:.2f} s to {end_s:.2f} s"
            report(Note(f"{why} {span}: the source is left unchanged", "warning"))
    if tally.occluded:
        report(Note(f"something is in front of the mouth in {tally.occluded} frames: it was kept there"))
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
        untouched=tally.spans("no face"),
        covered=tally.spans("mouth covered"),
        turned=tally.spans("face turned away"),
        occluded=tally.occluded,
        duration_s=setup.frames / float(setup.fps) if job.dry_run else tally.end_s,
        took_s=time.monotonic() - started,
        cast={person.who: tally.of_cast[person.who] for person in setup.people},
        turns=setup.job.face.turns,
        stages=meter.stages,
    )
    if job.report is not None and not job.dry_run:
        write_report(job.report, setup, result, report)
    return result


def render_start(setup: Setup, output: Path, most_s: float, report: Report) -> float:
    """Write the first `most_s` seconds of a result to `output`; gives its length in seconds."""
    tally = _Tally()
    with claimed(output), stage_threads():
        begun = replace(setup, duration_s=min(setup.duration_s, most_s))
        _make(begun, output, None, tally, Meter(), report)
    return tally.end_s


def estimate(setup: Setup, model: LipModel | None) -> str:
    """How long the run will take, in words: the speed is measured on its first two windows."""
    pace = Pace(setup.frames, setup.sampling.window_frames)
    started = time.monotonic()
    model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
    loading_s = time.monotonic() - started
    with stage_threads(), closing(_finished(setup, model, Meter())) as finished_frames:
        for done, _ in enumerate(finished_frames, 1):
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
    with closing(_finished(setup, model, Meter())) as finished_frames:
        for done, finished in enumerate(finished_frames, 1):
            report(Progress("sync", done, max(setup.frames, done)))
            yield labelled(finished.picture.rgb_u8, setup.job.label)


def _make(
    setup: Setup, output: Path, model: LipModel | None, tally: _Tally, meter: Meter, report: Report
) -> None:
    report(Progress("loading", 0, None))
    pace = Pace(setup.frames, setup.sampling.window_frames)
    with closing(_finished(setup, model, meter)) as finished_frames:  # its threads end here
        for finished in _written(setup, output, finished_frames):
            tally.add(finished, float(1 / setup.fps))
            pace.note(tally.frames, report)
            total = max(setup.frames, tally.frames)
            report(Progress("sync", tally.frames, total, picture=partial(_picture_of, finished)))


def _picture_of(finished: FinishedFrame) -> FrameImage:
    return finished.picture.rgb_u8


def _finished(setup: Setup, model: LipModel | None, meter: Meter) -> Generator[FinishedFrame, None, None]:
    """All frames of the output in order: tracking, denoising and pasting each run in their own thread.

    The model is loaded while the first frames are decoded and tracked.
    """
    played = meter.through("decode", _played(setup))
    if setup.people:
        yield from _finished_cast(setup, played, model, meter)
        return
    ahead = queue_frames(setup.sampling, setup.spec.resolution, setup.device) * (1 + len(setup.others))
    tracked_frames = meter.through("track", _tracked(setup, played))
    cuts = meter.through("cut", _cuts(setup, tracked_frames))
    with Background(cuts, capacity=ahead, stage="cut", meter=meter) as crops:
        meter.switch("load")
        model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
        others = [load_model(setup.spec, device=device, dtype=setup.dtype) for device in setup.others]
        mask = mouth_mask(setup.spec.resolution, setup.job.mask)
        meter.switch("encode")
        speech = _encode_speech(setup, model)
        made = generate(crops, model, speech, mask, setup.sampling, others=others)
        made = meter.through("generate", made)
        with Background(made, capacity=ahead, stage="generate", meter=meter) as generated:
            pasted = meter.through("paste", finish(generated, setup))
            with Background(pasted, capacity=ENCODE_FRAMES, stage="paste", meter=meter) as finished_frames:
                yield from finished_frames


def _finished_cast(
    setup: Setup, played: Iterator[Frame], model: LipModel | None, meter: Meter
) -> Iterator[FinishedFrame]:
    """All frames with a new mouth for each of the cast: one works on what the one before made.

    In one thread, because the networks are shared: only encoding runs beside it.
    """
    meter.switch("load")
    model = model or load_model(setup.spec, device=setup.device, dtype=setup.dtype)
    mask = mouth_mask(setup.spec.resolution, setup.job.mask)
    meter.switch("encode")
    cast_frames: dict[int, _CastFrame] = {}
    frames = _begun(played, cast_frames, keeps_picture=setup.job.compare)
    for person in setup.people:
        alone = replace(person, job=replace(person.job, compare=False))
        finished_frames = meter.through("paste", _finished_person(alone, frames, model, mask, meter))
        frames = _handed_on(finished_frames, person.who, cast_frames)
    for number, frame in enumerate(frames):
        cast_frame = cast_frames.pop(number)
        rgb_u8 = frame.rgb_u8
        if cast_frame.source_u8 is not None:
            rgb_u8 = np.concatenate([cast_frame.source_u8, rgb_u8], axis=1)
        yield FinishedFrame(
            unpatched(rgb_u8),
            frame.time_s,
            "" if cast_frame.who else cast_frame.why,
            cast_frame.is_interpolated,
            cast_frame.is_occluded,
            tuple(cast_frame.who),
        )


@dataclass(slots=True)
class _CastFrame:
    """What is known of a frame on its way through the cast. `who` has a new mouth in it so far."""

    source: int | None
    source_u8: FrameImage | None
    who: list[str] = field(default_factory=list)
    why: Why = "no face"
    is_interpolated: bool = False
    is_occluded: bool = False


def _begun(
    played: Iterator[Frame], cast_frames: dict[int, _CastFrame], *, keeps_picture: bool
) -> Iterator[Frame]:
    for number, frame in enumerate(played):
        cast_frames[number] = _CastFrame(frame.source, frame.rgb_u8 if keeps_picture else None)
        yield frame


def _finished_person(
    setup: Setup, frames: Iterator[Frame], model: LipModel, mask: NDArray[np.float32], meter: Meter
) -> Iterator[FinishedFrame]:
    tracked_frames = meter.through("track", _tracked(setup, frames))
    cuts = meter.through("cut", _cuts(setup, tracked_frames))
    made = generate(cuts, model, _encode_speech(setup, model), mask, setup.sampling)
    return finish(meter.through("generate", made), setup)


def _handed_on(
    finished_frames: Iterator[FinishedFrame], who: str, cast_frames: dict[int, _CastFrame]
) -> Iterator[Frame]:
    for number, finished in enumerate(finished_frames):
        cast_frame = cast_frames[number]
        if finished.has_face:
            cast_frame.who.append(who)
            cast_frame.is_interpolated |= finished.is_interpolated
            cast_frame.is_occluded |= finished.is_occluded
        elif finished.why != "no face":
            cast_frame.why = finished.why
        yield Frame(finished.picture.rgb_u8, number, finished.time_s, source=cast_frame.source)


def queue_frames(sampling: Sampling, side_px: int, device: torch.device) -> int:
    """How many frames may wait before and behind the networks.

    Two batches where they have their own device, which must not stand still while a batch is gathered.
    """
    if device.type == "cpu":
        return NEAR_FRAMES
    return 2 * sampling.window_frames * batch_windows(sampling, side_px, device)


def _played(setup: Setup) -> Iterator[Frame]:
    """The frames of the output as the source shows them."""
    job = setup.job
    return play(
        job.video,
        setup.info,
        policy=job.duration,
        duration_s=setup.duration_s,
        start_s=job.start_s,
        end_s=job.end_s,
        track=job.video_track,
        fps=setup.fps,
    )


def _tracked(setup: Setup, frames: Iterator[Frame]) -> Iterator[TrackedFrame]:
    """The frames with the face followed through them."""
    recipe = setup.recipe
    settings = TrackSettings(
        smoothing="released" if setup.sampling.is_exact else "steady",
        sigma_s=recipe.faces.smoothing_s,
        gap_frames=recipe.faces.max_gap_frames,
        follow=FollowSettings(check_every_frames=recipe.faces.detect_every_frames),
    )
    pixels = SquarePixels(setup.info)
    tracked_frames = track(
        pixels.squared(frames),
        choice=pixels.choice(setup.job.face),
        resolution=setup.spec.resolution,
        detector=setup.detector,
        landmarker=setup.landmarker,
        settings=settings,
    )
    return pixels.restored(tracked_frames)


def _cuts(setup: Setup, tracked_frames: Iterator[TrackedFrame]) -> Iterator[CutFrame]:
    """The crops of the frames, without those that are better left as they are."""
    pasting = setup.recipe.paste
    fade_frames = round(pasting.fade_s * float(setup.fps))
    mark = choose_marking(setup.occlusion, pasting.occlusion)
    return cut_crops(tracked_frames, fade_frames=fade_frames, mark=mark)


def _encode_speech(setup: Setup, model: LipModel) -> StateSource:
    samples = setup.speech.samples
    if setup.duration_s > setup.speech.duration_s:  # silence after the last word closes the mouth
        samples = np.pad(samples, (0, AUDIO_HZ // 2))
    if model.wav2lip is not None:
        return MelColumns(samples)
    return SpeechStates(model.whisper, samples, mode=setup.recipe.audio.mode)


def _written(setup: Setup, output: Path, finished_frames: Iterator[FinishedFrame]) -> Iterator[FinishedFrame]:
    """Encode and pass on each frame; the output gets its name after the last one."""
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
        for finished in finished_frames:
            # At a constant rate the times follow from the numbers, without rounding.
            time_s = finished.time_s if info.is_variable else None
            picture = labelled(finished.picture.rgb_u8, job.label) if job.label else finished.picture
            writer.write(picture, time_s)
            yield finished


def _source_s(setup: Setup) -> float:
    """For how long the result shows the video for the first time."""
    end_s = min(setup.info.duration_s, setup.job.end_s or setup.info.duration_s)
    return min(setup.duration_s, end_s - setup.job.start_s)


def _mixed_sound(setup: Setup, stack: ExitStack) -> Path | None:
    """The sound of the result, in a file that lasts as long as `stack`, if it is not the speech alone."""
    job, info = setup.job, setup.info
    sound = None if job.keep_audio.rule == "replace" or info.is_picture else probe(job.video).audio
    if sound is None and not job.cast:
        return None
    path = Path(stack.enter_context(TemporaryDirectory(prefix="latentsync-"))) / "mixed.m4a"
    mix_sound(
        [(line.speech, line.from_s) for line in job.cast] or job.speech,
        None if sound is None else job.video,
        path,
        keep=job.keep_audio,
        duration_s=setup.duration_s,
        skip_s=0.0 if sound is None else job.start_s + info.start_s - sound.start_s,
        original_s=_source_s(setup),
        speech_track=job.audio_track,
    )
    return path
