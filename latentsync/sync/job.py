"""What `sync` is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latentsync.faces.choice import FaceChoice, Turn
from latentsync.media.mix import KeepAudio
from latentsync.media.write import PixelFormat
from latentsync.runtime import DeviceName, DtypeName
from latentsync.sync.cast import Line
from latentsync.sync.stages import StageTime
from latentsync.sync.timeline import Duration
from latentsync.types import FrameImage
from latentsync.weights.models import DEFAULT_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJob:
    """What to work on and where.

    output          None: the frames go to the caller of `run.make_frames`
    start_s, end_s  the part of the video that is used
    duration        how long the output is, and what follows when the video is shorter; see `timeline.play`
    compare         put the source beside the result
    mask            picture of the mouth mask (white = kept); None: the drawn one
    video_track     which of several video streams, 0 first; None: the one that a player would show
    audio_track     the same for the speech
    keep_fps        frames of slow or frozen video are not repeated to let the lips move
    pixel_format    see `media.write.Encoding`
    mark            say in the tag "comment" that the mouth is synthetic
    label           a text that is drawn into a corner of every frame; "" for none
    keep_audio      what becomes of the original sound
    cast            who says what from when, instead of `face` and `speech`, which is then the first of theirs
    """

    video: Path
    speech: Path
    output: Path | None
    model: str = DEFAULT_MODEL
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    face: FaceChoice = field(default_factory=FaceChoice)
    start_s: float = 0.0
    end_s: float | None = None
    duration: Duration = "speech"
    compare: bool = False
    mask: Path | None = None
    video_track: int | None = None
    audio_track: int | None = None
    keep_fps: bool = False
    pixel_format: PixelFormat = "auto"
    mark: bool = True
    label: str = ""
    keep_audio: KeepAudio = field(default_factory=KeepAudio)
    cast: tuple[Line, ...] = ()
    report: Path | None = None
    force: bool = False
    dry_run: bool = False

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read."""
        return (self.video, *((line.speech for line in self.cast) if self.cast else (self.speech,)))


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What was made, and how the latents were denoised.

    cast       in how many frames each person of a cast has a new mouth
    untouched  spans in seconds of the output where there was no face, so that the source shows
    bridged    frames whose face was interpolated between its neighbours
    covered    spans in which the mouth was mostly covered, so that the source shows
    turned     spans in which the face was turned away, so that the source shows
    occluded   frames with a new mouth in which something in front of it was kept
    turns      who was chosen from when to when in the video, for `--face speaker`
    stages     where the time went, see `stages.StageTime`; stages run side by side
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
    turns: tuple[Turn, ...] = ()
    cast: Mapping[str, int] = field(default_factory=dict)
    covered: tuple[tuple[float, float], ...] = ()
    turned: tuple[tuple[float, float], ...] = ()
    occluded: int = 0
    stages: Mapping[str, StageTime] = field(default_factory=dict)

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
            "occluded_frames": self.occluded,
            "untouched_s": [list(span) for span in self.untouched],
            "covered_s": [list(span) for span in self.covered],
            "turned_s": [list(span) for span in self.turned],
            "turns": [
                {"from_s": round(turn.start_s, 2), "to_s": round(turn.end_s, 2), "face": turn.person or None}
                for turn in self.turns
            ],
            "cast": dict(self.cast),
            "duration_s": round(self.duration_s, 3),
            "took_s": round(self.took_s, 2),
        }


@dataclass(frozen=True, slots=True)
class SyncedFrames:
    """The frames of a result, made while they are taken: iterate over them once.

    fps     how many are shown in a second: more than the video has where it is too slow for lips
    frames  how many are expected
    height, width  of each, in pixels
    images  (h w c) uint8 RGB each
    """

    fps: float
    frames: int
    height: int
    width: int
    images: Iterator[FrameImage]

    def __iter__(self) -> Iterator[FrameImage]:
        return self.images

    def __len__(self) -> int:
        return self.frames
