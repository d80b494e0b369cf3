"""What is found out before anything slow is loaded: inputs, outputs, the length, the first face."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from latentsync.audio.activity import noise_spans, without_noise
from latentsync.errors import FaceError, LatentSyncError, MediaError, UsageError
from latentsync.events import Note, Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.everyone import follow_everyone
from latentsync.faces.follow import Follower, FollowSettings, Sight, is_same_place
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.occlusion import OcclusionFinder, load_occlusion
from latentsync.faces.person import person_at, person_in
from latentsync.files import live_parts, part_beside, sweep_parts
from latentsync.media.carry import describe_losses
from latentsync.media.pixels import HLG, PQ
from latentsync.media.probe import VideoInfo, describe_doubts, is_cut_short, probe
from latentsync.media.read import measure_video, read_frames
from latentsync.media.sound import lead_s, read_audio
from latentsync.media.write import Encoding, container_format_of, require_encoder
from latentsync.metrics.sync import bundled_judge
from latentsync.recipe.sync import SyncRecipe
from latentsync.runtime import choose_devices, choose_dtype
from latentsync.sync.cast import Part, mixed, read_parts
from latentsync.sync.denoiser import Sampling
from latentsync.sync.effort import choose_sampling, describe_sampling
from latentsync.sync.job import SyncJob
from latentsync.sync.speaker import decide, describe, gather
from latentsync.sync.timeline import SquarePixels, frame_count, shown_fps
from latentsync.types import AudioTrack, Frame
from latentsync.weights.models import LipModel, ModelSpec, find_model

LOOK_EVERY_S = 0.4  # how densely the video is searched for its first face before anything is loaded
REPORTS = (".json", ".html")
SILENT_PEAK = 1e-3  # -60 dB
AFTER_END_S = 1.0  # of speech that is read past the end of the video, because a frame depends on what follows


@dataclass(frozen=True, slots=True)
class Setup:
    """A job with everything that was found out before it starts.

    fps        of the output: higher than the video's where that is too slow for lips
    occlusion  finds what is in front of the mouth; None: nothing looks
    people     of a cast: the same with the face and the speech of each; `speech` is then that of all
    who        in the words of the cast
    """

    job: SyncJob
    recipe: SyncRecipe
    info: VideoInfo
    fps: Fraction
    spec: ModelSpec
    sampling: Sampling
    device: torch.device
    others: tuple[torch.device, ...]
    dtype: torch.dtype
    speech: AudioTrack
    duration_s: float
    detector: Detector
    landmarker: Landmarker
    occlusion: OcclusionFinder | None = None
    people: tuple[Setup, ...] = ()
    who: str = ""

    @property
    def frames(self) -> int:
        return frame_count(self.duration_s, float(self.fps))

    @property
    def encoding(self) -> Encoding:
        encoded = self.recipe.encoding
        return Encoding(
            codec=encoded.codec, crf=encoded.crf, preset=encoded.preset, pixels=self.job.pixel_format
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output's frames."""
        return self.info.height, self.info.width * (2 if self.job.compare else 1)


def prepare(job: SyncJob, recipe: SyncRecipe, model: LipModel | None, report: Report) -> Setup:
    """Look at the files, and settle what the job leaves open. A dry run refuses what a run would."""
    _check_outputs(job)
    info = measure_video(job.video, track=job.video_track)
    _check_span(job, info)
    is_cut = job.duration == "video" and not info.is_picture
    video_s = min(info.duration_s, job.end_s or info.duration_s) - job.start_s
    # What is planned is what can be decoded: a stated length of the speech may be missing or wrong.
    heeds_noise = recipe.audio.activity == "auto" and recipe.sampling.mode != "exact"
    parts = read_parts(job.cast, track=job.audio_track)
    if heeds_noise:
        parts = tuple(replace(part, speech=_speech_alone(part.speech, report)) for part in parts)
    if parts:
        speech = mixed(parts)
    else:
        late_s = lead_s(job.speech, track=job.audio_track)
        end_s = video_s + AFTER_END_S - late_s if is_cut else None
        speech = read_audio(job.speech, start_s=-late_s, end_s=end_s, track=job.audio_track)
        speech = _speech_alone(speech, report) if heeds_noise else speech
    spec = model.spec if model else find_model(job.model, resolution=recipe.sampling.resolution)
    device, *others = [model.device] if model else choose_devices(job.device)
    dtype = (
        model.dtype if model else choose_dtype(job.dtype, device, is_exact=recipe.sampling.mode == "exact")
    )
    setup = Setup(
        job=job,
        recipe=recipe,
        info=info,
        fps=shown_fps(info, keep_fps=job.keep_fps),
        spec=spec,
        sampling=choose_sampling(recipe, spec),
        device=device,
        others=tuple(others),
        dtype=dtype,
        speech=speech,
        duration_s=video_s if is_cut else speech.duration_s,
        detector=Detector(),
        landmarker=choose_landmarker(),
        occlusion=load_occlusion() if _looks_in_front(recipe) else None,
    )
    setup = replace(setup, people=tuple(_person(setup, part, report) for part in parts))
    setup = replace(setup, job=replace(job, face=_whom(setup, report)))
    if job.output is not None:
        require_encoder(setup.encoding, job.output, setup.size)
    mouth_mask(spec.resolution, job.mask)
    for message in _notes(setup):
        report(Note(message, "warning"))
    return setup


def _looks_in_front(recipe: SyncRecipe) -> bool:
    """Whether it is looked for what is in front of the mouth; what repeats the reference does not."""
    is_reference = recipe.sampling.mode == "exact" or recipe.paste.region == "crop"
    return recipe.paste.occlusion != "off" and not is_reference


def _speech_alone(speech: AudioTrack, report: Report) -> AudioTrack:
    """The speech with silence where there is only noise or music: the networks would move the mouth to it."""
    spans = noise_spans(speech.samples)
    if spans:
        noise_s = sum(end_s - start_s for start_s, end_s in spans)
        remedy = "--set audio.activity=off moves it"
        report(Note(f"the mouth is closed in {noise_s:.1f} s of noise or music; {remedy}"))
    return AudioTrack(without_noise(speech.samples, spans), speech.rate_hz)


def _person(setup: Setup, part: Part, report: Report) -> Setup:
    """The setup of one of a cast: with their face and their speech."""
    own = replace(setup, job=replace(setup.job, face=part.face), speech=part.speech)
    try:
        return replace(own, job=replace(own.job, face=_whom(own, report)), who=part.who)
    except LatentSyncError as error:
        raise type(error)(f"{part.origin}: {error}", hint=error.hint) from error


def _whom(setup: Setup, report: Report) -> FaceChoice:
    """The face that is meant, as one that can be followed: a point at a time and a picture are looked up."""
    job, choice, pixels = setup.job, setup.job.face, SquarePixels(setup.info)
    if choice.rule == "point_at":
        frames = read_frames(job.video, start_s=choice.time_s, track=job.video_track)
        shown = next(iter(frames))  # or a MediaError: the video ends before
        return person_at(pixels.square(shown), pixels.choice(choice), setup.detector, setup.landmarker)
    if choice.picture is not None:
        picture = next(iter(read_frames(choice.picture))).rgb_u8
        return person_in(picture, choice.picture, setup.detector, setup.landmarker)
    return _who_speaks(setup, report) if choice.rule == "speaker" else choice


def _who_speaks(setup: Setup, report: Report) -> FaceChoice:
    """Whose lips go with the video's own sound, frame by frame."""
    job, info, pixels = setup.job, setup.info, SquarePixels(setup.info)
    sound = probe(job.video).audio
    if sound is None or info.is_picture:
        raise UsageError(
            f"--face speaker: '{job.video}' has no sound that could tell who speaks",
            hint="choose a face, for example --face largest",
        )
    samples = read_audio(job.video, start_s=job.start_s + info.start_s - sound.start_s).samples
    # What comes later than the result ends needs no choice.
    end_s = min(job.end_s or info.duration_s, job.start_s + setup.duration_s + AFTER_END_S)
    frames = read_frames(job.video, start_s=job.start_s, end_s=end_s, track=job.video_track)

    def counted() -> Iterator[Frame]:
        for number, frame in enumerate(frames, 1):
            report(Progress("looking for who speaks", number, round((end_s - job.start_s) * info.fps)))
            yield pixels.square(frame)

    settings = FollowSettings(check_every_frames=setup.recipe.faces.detect_every_frames)
    people = follow_everyone(
        counted(), detector=setup.detector, landmarker=setup.landmarker, settings=settings
    )
    seen, turns = decide(gather(people, samples, bundled_judge(device=setup.device)))
    if not any(turn.person for turn in turns):
        raise FaceError(
            f"'{job.video}': nobody's lips go with its sound",
            hint="choose a face, for example --face largest",
        )
    report(Note(f"speaker: {describe(turns)}"))
    return replace(job.face, seen=seen, turns=turns)


def _check_span(job: SyncJob, info: VideoInfo) -> None:
    if not job.start_s >= 0 or (job.end_s is not None and not job.end_s > job.start_s):  # also not a number
        raise UsageError(
            f"--start {job.start_s} --end {job.end_s}: empty part", hint="choose an --end after --start"
        )
    if not info.is_picture and job.start_s >= info.duration_s:
        raise UsageError(
            f"--start {job.start_s}: '{job.video}' ends at {info.duration_s:.2f} s", hint="start earlier"
        )


def _check_outputs(job: SyncJob) -> None:
    for path in filter(None, (job.output, job.report)):
        try:
            _check_output(path, job)
        except (
            OSError
        ) as error:  # a name that is too long, a folder that may not be entered, a circle of links
            raise MediaError(
                f"'{path}' cannot be written: {error.strerror}", hint="choose another name"
            ) from error
    if job.report is not None and job.report.suffix.lower() not in REPORTS:
        raise UsageError(
            f"'{job.report}': unknown kind of report '{job.report.suffix}'",
            hint=f"end the name in {' or '.join(REPORTS)}",
        )
    if job.output is None:
        return
    _refuse_rival(job.output)
    if job.report is not None and job.report.absolute() == job.output.absolute():
        raise UsageError(f"'{job.report}': is also the output of this run", hint="name another --report")


def _check_output(path: Path, job: SyncJob) -> None:
    """Refuse a path that is taken or cannot be written."""
    for source in job.inputs:
        with suppress(FileNotFoundError):
            if path.samefile(source):
                raise UsageError(f"'{path}': is an input of this run", hint="name another output")
    if path.is_dir():
        raise UsageError(f"'{path}': is a folder", hint="name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"'{path}': is not a regular file", hint="name another output")
    if path.exists() and not job.force:
        raise UsageError(f"'{path}': already exists", hint="add --force to replace it, or name another")
    target = Path(os.path.realpath(path))  # where a link leads to
    if not target.parent.is_dir():
        raise MediaError(f"'{path.parent}': this folder does not exist", hint="write to another folder")
    part = part_beside(target)
    try:  # permissions do not tell: root may write everywhere, but /proc takes no files
        part.touch()
        part.unlink()
    except OSError as error:
        raise MediaError(
            f"'{path.parent}': this folder cannot be written: {error.strerror}",
            hint="write to another folder",
        ) from error


def _refuse_rival(output: Path) -> None:
    others = [pid for pid in live_parts(Path(os.path.realpath(output))) if pid != os.getpid()]
    if others:
        raise UsageError(
            f"'{output}': process {others[0]} is writing it", hint="wait for it, or name another output"
        )


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep a second run from writing the same output; removes what killed runs left in its folder.

    Raises:
        UsageError: another process is writing it.
    """
    target = Path(os.path.realpath(output))
    sweep_parts(target.parent)
    _refuse_rival(output)
    part = part_beside(target)
    try:
        with suppress(OSError):
            part.touch()
        yield
    finally:
        with suppress(OSError):
            part.unlink()


def _notes(setup: Setup) -> Iterator[str]:
    """What the person should know about the inputs, a line for each."""
    job, info = setup.job, setup.info
    is_open = job.video_track is None and not info.is_picture
    if is_open and (doubt := describe_doubts(job.video, VideoStream)):
        yield doubt
    for speech in job.inputs[1:]:
        if job.audio_track is None and (doubt := describe_doubts(speech, AudioStream)):
            yield doubt
    if len(setup.speech.samples) and abs(setup.speech.samples).max() < SILENT_PEAK:
        yield f"'{job.speech}' is silent: the mouth stays closed"
    if info.color_trc in (PQ, HLG):
        yield f"'{job.video}' is HDR: the result is SDR, tone-mapped to BT.709"
    if (info.is_picture or info.codec == "gif") and is_cut_short(job.video):
        yield f"'{job.video}' ends in the middle of a picture: copy or download it again"
    if info.is_transparent:
        yield f"transparent parts of '{job.video}' are shown on white"
    if job.output is not None and not info.is_picture:
        yield from describe_losses(job.video, container_format_of(job.output))
    if setup.fps != info.fps:
        yield (
            f"'{job.video}' shows frames for up to {info.longest_frame_s:.2f} s: they are repeated at "
            f"{float(setup.fps):g} fps, so that the lips move (--keep-fps prevents it)"
        )


def find_first_face(setup: Setup, report: Report) -> None:
    """Search a few frames a second for a face, so that a video without one fails at once.

    Raises:
        FaceError: there is none, or not the one that was asked for.
        UsageError: two of a cast are the same face.
    """
    found: list[tuple[Setup, Sight]] = []
    for person in setup.people or (setup,):
        first = _first_sight(person, report)
        for other, sight in found:
            if first is not None and _is_same(first, sight):
                raise UsageError(
                    f"'{other.who}' and '{person.who}' are the same face at {first.frame.time_s:.2f} s",
                    hint="name it in the same words in all its rows",
                )
        if first is not None:
            found.append((person, first))


def _first_sight(setup: Setup, report: Report) -> Sight | None:
    """Where the face is seen first; None where that is known already."""
    job, fps = setup.job, float(setup.info.fps)
    if job.face.turns:  # everybody was looked for already
        return None
    settings = FollowSettings(check_every_frames=sys.maxsize)  # look in every frame that is shown to it
    pixels = SquarePixels(setup.info)
    follower = Follower(pixels.choice(job.face), setup.detector, setup.landmarker, settings)
    every, seen = max(1, round(LOOK_EVERY_S * fps)), 0
    for frame in read_frames(job.video, start_s=job.start_s, end_s=job.end_s, track=job.video_track):
        seen += 1
        if frame.index % every == 0:
            report(Progress("looking for a face", seen, setup.info.frames))
            try:
                sight = follower.see(pixels.square(frame))
            except FaceError as error:  # --face asks for one that is not there
                who = f" ('{setup.who}' of the cast)" if setup.who else ""
                raise FaceError(f"'{job.video}': {error}{who}", hint=error.hint) from error
            if sight.points is not None:
                return sight
    if seen == 0:
        raise MediaError(f"'{job.video}': no picture could be decoded", hint="give another video")
    looked = -(-seen // every)
    raise FaceError(
        f"'{job.video}': no face in any of {looked} frames searched over {seen / fps:.1f} s",
        hint="give a video that shows a real face from the front, at least 40 pixels wide",
    )


def _is_same(one: Sight, other: Sight) -> bool:
    """Whether two sights are of one face in one frame."""
    if one.points is None or other.points is None or one.frame.index != other.frame.index:
        return False
    return is_same_place(one.points, other.points)


def why_untouched(setup: Setup) -> str:
    """Why frames without a chosen face are left as they are."""
    return "nobody in view speaks" if setup.job.face.turns else "no face"


def plan_lines(setup: Setup) -> tuple[str, ...]:
    """What will be done, a line for each fact."""
    job, info = setup.job, setup.info
    source = "still picture" if info.is_picture else f"{float(info.fps):.6g} fps, {info.duration_s:.2f} s"
    number_format = str(setup.dtype).split(".")[-1]
    return (
        f"model   {setup.spec.name}: {setup.spec.note}",
        f"device  {setup.device} {number_format}, {setup.spec.resolution} px",
        f"effort  {describe_sampling(setup.recipe, setup.sampling)}",
        f"video   {job.video} ({info.width}x{info.height}, {source})",
        *(f"cast    {line.who}: {line.speech}, from {line.from_s:.2f} s" for line in job.cast),
        *(() if job.cast else (f"speech  {job.speech} ({setup.speech.duration_s:.2f} s)",)),
        f"output  {job.output or 'frames'} ({setup.frames} frames, {setup.duration_s:.2f} s)",
    )
