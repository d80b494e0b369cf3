"""What passes between the steps: a clip, and the reason why one goes no further."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.manifest import Split
from latentsync.types import Frame, FrameImage

CLIP_FPS = 25
RATE_HZ = 16000
SAMPLES_PER_FRAME = RATE_HZ // CLIP_FPS

# Every reason there is, with what it means. These words are counted in reports: they do not change.
REASONS = {
    "unreadable": "the file is missing, empty, cut off, damaged, locked, or no media",
    "no_video": "there is no moving picture in the file: only sound, or a still picture",
    "no_audio": "there is no sound in the file",
    "too_large": "frames with more pixels than the recipe takes",
    "too_fast": "more frames a second than the recipe takes",
    "too_long": "more hours than the recipe takes",
    "too_short": "a video or a shot that is shorter than the shortest clip",
    "no_face": "no face anywhere in the clip",
    "face_lost": "the face is not seen all the time, or another one takes its place",
    "face_too_small": "the face has too few pixels in the source",
    "side_on": "the face is turned too far to the side",
    "several_faces": "another face of comparable size is there for too long",
    "offset_too_large": "speech and lips are further apart than is believed",
    "low_confidence": "the judge of sync is not sure that speech and lips belong together",
    "low_quality": "the picture is too blurred or too blocky",
    "crashed": "the source killed its worker, each time it was tried",
    "hung": "the source took longer than the run allows, each time",
    "error": "a step met something that no media file should cause; the log has the trace",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file to process. `name` is its path within the raw folder, as `manifest.source_name` writes it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame after alignment.

    crop_u8   (h w c) the aligned crop; None where there is no face
    points    (68, 2) in pixels of the frame
    box_u8    (h w c) the same crop, but upright in the frame, where the recipe asks for it
    other_px  side of the largest other face, brows to chin; 0 without one, None where nobody looked
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
    """How well speech and lips of a clip fit; `is_applied` if the speech was moved by the offset."""

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
    """Where a clip was written; `name` is its path within the out folder."""

    name: str
    sha256: str
    person: str
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A stretch of one source, as far as the steps have brought it.

    start_frame  of the source at 25 frames a second, its first frame being 0
    frames       how many there are; None while the stream has not been read
    speech       all of the source's sound, (n,) at 16 kHz, beginning with its first frame
    stream       frames of the source, read once
    source_px    pixels of the source to a pixel of these frames, along each side
    pictures     what became of the frames, read once
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
    """What is heard during a clip, shifted by the offset where that is applied: (frames * 640,).

    The window is moved over the sound of the whole source, so that nothing is lost at the ends of a clip.
    """
    if clip.speech is None or clip.frames is None:
        raise ValueError("the clip has no speech or no length yet")
    shift_frames = clip.sync.offset_frames if clip.sync is not None and clip.sync.is_applied else 0
    first = (clip.start_frame - shift_frames) * SAMPLES_PER_FRAME
    wanted = clip.frames * SAMPLES_PER_FRAME
    heard = clip.speech[max(0, first) : max(0, first + wanted)]
    before = min(wanted, max(0, -first))
    return np.pad(heard, (before, wanted - before - len(heard)))


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a clip goes no further. A drop is an answer, not an error: nothing is raised.

    clip  what is known by now, where that is more than the step was given
    """

    reason: str
    detail: str = ""
    clip: Clip | None = None


class Step(Protocol):
    """Takes one clip and gives, one after another, the clips that replace it or reasons why there are none.

    Clips are worked off depth first: when the next one is asked for, the one before is done with, whether its
    stream was read to the end or not. A step writes under `out_dir` only.
    """

    name: str

    def start(self) -> None:
        """Load what is slow to load. Called once in each worker process."""

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]: ...
