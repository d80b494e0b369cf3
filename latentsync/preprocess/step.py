"""What passes between preprocessing steps: a clip, or the reason why it is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.manifest import Split
from latentsync.rates import SAMPLES_PER_FRAME
from latentsync.types import Frame, FrameImage

# All reasons, with their meaning. Reports count these words: they do not change.
REASONS = {
    "unreadable": "the file is missing, empty, cut off, damaged, locked, or not a media file",
    "no_video": "the file has no video: only audio, or a still picture",
    "no_audio": "the file has no audio",
    "too_large": "the frames have more pixels than the recipe allows",
    "too_fast": "more frames per second than the recipe allows",
    "too_long": "more hours than the recipe allows",
    "too_short": "a video or shot shorter than the shortest clip",
    "no_face": "no face anywhere in the clip",
    "face_lost": "the face is missing in some frames, or another one replaces it",
    "face_too_small": "the face has too few pixels in the source",
    "side_on": "the face is turned too far to the side",
    "several_faces": "another face of comparable size is visible for too long",
    "offset_too_large": "the offset between speech and lips is larger than the recipe allows",
    "low_confidence": "the SyncNet is not confident that speech and lips belong together",
    "low_quality": "the picture is too blurred or too blocky",
    "crashed": "the source killed its worker in every attempt",
    "hung": "the source took longer than --limit in every attempt",
    "error": "a step raised an error that no media file should cause; the log has the trace",
}


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the frames, in frame heights from the left and the top; what lies outside them is cut off."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Source:
    """A file to process, or a clip of one.

    name    its path within the raw folder, as `manifest.source_name` writes it
    sound   the file with its speech; None: `path` itself
    start_s, end_s  seconds of `path` where the clip begins and ends; None: at its end
    region  the part of the frames that is looked at; None: all
    person  who is seen, where the data set says so
    """

    path: Path
    name: str
    sound: Path | None = None
    start_s: float = 0.0
    end_s: float | None = None
    region: Region | None = None
    person: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame after alignment.

    crop_u8   (h w c) the aligned crop; None without a face
    points    (68, 2) in pixels of the frame
    box_u8    (h w c) the same crop, but upright in the frame, where the recipe asks for it
    other_px  side of the largest other face, brows to chin; 0 without one, None if not searched for
    """

    crop_u8: FrameImage | None
    points: NDArray[np.float32] | None
    box_u8: FrameImage | None = None
    other_px: float | None = None


@dataclass(frozen=True, slots=True)
class FaceFacts:
    """The face of a clip; see `Decision` for what the numbers mean."""

    px: float
    yaw: float
    others: float


@dataclass(frozen=True, slots=True)
class SyncFacts:
    """How well speech and lips of a clip match; `is_applied` if the speech was shifted by the offset."""

    offset_frames: int
    confidence: float
    judge: str
    is_applied: bool


@dataclass(frozen=True, slots=True)
class QualityFacts:
    """How good the pictures of a clip are."""

    value: float
    measure: Literal["hyperiqa", "sharpness"]
    blockiness: float | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """Where a clip was written; `name` is its path within the output folder."""

    name: str
    sha256: str
    person: str
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A span of one source, with what the steps so far found out.

    start_frame  of the source at 25 frames a second, its first frame being 0
    frames       how many there are; None while the stream has not been read
    speech       all audio of the source, (n,) at 16 kHz, from its first frame on
    stream       frames of the source, to be read once
    source_px    pixels of the source per pixel of these frames, along each side
    pictures     the aligned frames, to be read once
    resolution   side of the crops in pixels
    crops_u8     (f h w c)
    boxes_u8     (f h w c) the same, but upright in their frames, where the recipe asks for them
    """

    source: Source
    start_frame: int = 0
    frames: int | None = None
    speech: NDArray[np.float32] | None = None
    stream: Iterator[Frame] | None = None
    source_px: float = 1.0
    pictures: Iterator[Picture] | None = None
    resolution: int | None = None
    crops_u8: NDArray[np.uint8] | None = None
    boxes_u8: NDArray[np.uint8] | None = None
    face: FaceFacts | None = None
    sync: SyncFacts | None = None
    quality: QualityFacts | None = None
    written: Written | None = None


def speech_during(clip: Clip) -> NDArray[np.float32]:
    """The audio of a clip, shifted by its offset if that is applied: (frames * 640,).

    It is cut from the audio of the whole source, so that a shift loses nothing at the ends of a clip.
    """
    if clip.speech is None or clip.frames is None:
        raise ValueError("the clip has no speech or no length yet")
    shift_frames = clip.sync.offset_frames if clip.sync is not None and clip.sync.is_applied else 0
    first = (clip.start_frame - shift_frames) * SAMPLES_PER_FRAME
    wanted = clip.frames * SAMPLES_PER_FRAME
    cut = clip.speech[max(0, first) : max(0, first + wanted)]
    before = min(wanted, max(0, -first))
    return np.pad(cut, (before, wanted - before - len(cut)))


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a clip is dropped. A drop is a result, not an error: nothing is raised.

    clip  what is known of it, if that is more than the step was given
    """

    reason: str
    detail: str = ""
    clip: Clip | None = None


class Step(Protocol):
    """Takes one clip and yields the clips that replace it, or drops.

    Clips pass the chain depth first: when the next one is requested, the one before is finished, whether
    its stream was read to the end or not. A step writes only under `out_dir`.
    """

    name: str

    def start(self) -> None:
        """Load networks. Called once in each worker process."""

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]: ...
