"""From videos to what the metrics see: one face followed, aligned crops at 25 fps, matched by time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.faces.align import align, control_points, square_from_window
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import FaceFinder
from latentsync.faces.follow import FollowSettings
from latentsync.faces.landmarks import Landmarker
from latentsync.faces.track import TrackedFrame, TrackSettings, track
from latentsync.media.probe import VideoInfo, probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.preprocess.read_video import at_25_fps
from latentsync.preprocess.step import CLIP_FPS, RATE_HZ, SAMPLES_PER_FRAME
from latentsync.recipe.evaluate import Preparing
from latentsync.types import AffineFrame

VERSION = "1"  # of what is done here: a new one makes all cached scores stale
_FARTHEST = (
    0.12  # sides of the crop: how far two faces may lie apart for the crops of the one to fit the other
)


class Unfit(Exception):
    """A clip cannot be scored. Raised and caught within this folder, so that the reason reaches the table.

    reason  a fixed word: see `REASONS`
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


REASONS = {
    "missing": "the method has no video for this clip, or a file of the pair is not there",
    "unreadable": "a file of the pair is damaged, empty or no video",
    "no_face": "there is no face in the clip, or it is away for too long",
    "too_short": "picture and speech that belong together are shorter than the recipe's min_s",
    "silent": "there is no sound, or nothing in it is louder than the recipe's silent_db",
    "failed": "the clip could not be finished: a worker died, ran for too long or met a bug",
}


@dataclass(frozen=True, slots=True)
class Faces:
    """The networks that find and follow a face, loaded once.

    points_by  which landmark network it is: scores of another one are others
    """

    detector: FaceFinder
    landmarker: Landmarker
    points_by: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A video as one face, one row for every 25th of a second from its first frame on.

    crops_u8   (f h w c); the rows before `first` and of frames without a face show the nearest place
    points     (f 68 2) in pixels of the crop; NaN where no face is seen
    crop_from_frame  (f 2 3), to pixels of the upright window
    seen       (f,) whether a face is seen, or bridged between two sights
    first      row of the first sight
    """

    info: VideoInfo
    crops_u8: NDArray[np.uint8]
    points: NDArray[np.float32]
    crop_from_frame: NDArray[np.float64]
    seen: NDArray[np.bool_]
    first: int

    @property
    def frames(self) -> int:
        return len(self.seen)


def prepare(
    video: Path,
    preparing: Preparing,
    faces: Faces,
    *,
    longest_s: float | None = None,
    like: Prepared | None = None,
) -> Prepared:
    """Follow the largest face of a video and cut it out at 25 fps; other frame rates are matched by time.

    Args:
        video: read once, front to back; a dozen of its frames and all crops are held.
        preparing: sizes and limits.
        faces: the networks.
        longest_s: read no further; None: `preparing.longest_s`.
        like: cut where the face of this one is, row by row; what goes on for longer is not read.

    Raises:
        Unfit: it is no video, or shows no face.
    """
    info = _video_info(video)
    limit_s = min(preparing.longest_s, longest_s or math.inf)
    side, most = preparing.resolution, math.ceil(limit_s * CLIP_FPS)
    if like is not None:
        most = min(most, like.frames)
    crops_u8 = np.empty((most, side, side, 3), np.uint8)  # the system gives memory only for what is written
    points = np.full((most, 68, 2), np.nan, np.float32)
    places = np.zeros((most, 2, 3))
    seen = np.zeros(most, bool)
    frames, first = 0, -1
    try:
        for tick, row in zip(range(most), _tracked(video, limit_s, preparing, faces), strict=False):
            frames = tick + 1
            own = None if row.affine is None else row.affine.crop_from_frame
            place = own if like is None else like.crop_from_frame[tick]
            seen[tick] = row.face is not None
            if place is None and first < 0:
                continue
            first = tick if first < 0 else first
            places[tick] = places[tick - 1] if place is None else place
            affine = AffineFrame(places[tick], side)
            crops_u8[tick] = align(row.frame.rgb_u8, affine)
            if row.face is not None:
                points[tick] = in_crop(row.face.points, affine)
    except MediaError as error:
        raise Unfit("unreadable", str(error)) from error
    if not seen[:frames].any():
        raise Unfit("no_face", f"'{video.name}': no face in {frames} frames")
    if like is None:
        first = int(seen.argmax())
        crops_u8[:first], places[:first] = crops_u8[first], places[first]
    else:
        first = like.first
    cut = slice(0, frames)
    return Prepared(info, crops_u8[cut], points[cut], places[cut], seen[cut], first)


def in_crop(points: NDArray[np.float32], affine: AffineFrame) -> NDArray[np.float32]:
    """Points (n 2) of a frame in pixels of its square crop."""
    crop_from_frame = square_from_window(affine.resolution) @ np.vstack([affine.crop_from_frame, [0, 0, 1]])
    moved = points @ crop_from_frame[:2, :2].T + crop_from_frame[:2, 2]
    return np.asarray(moved, np.float32)


def is_same_place(made: Prepared, real: Prepared) -> bool:
    """Whether brows and nose of `made`, which was cut like `real`, lie where those of `real` lie."""
    frames = min(made.frames, real.frames)
    both = np.flatnonzero(made.seen[:frames] & real.seen[:frames])
    if not len(both):
        return False
    side = made.crops_u8.shape[1]
    apart = [
        np.linalg.norm(control_points(made.points[row]).mean(0) - control_points(real.points[row]).mean(0))
        for row in both
    ]
    return bool(np.median(apart) < _FARTHEST * side)


def hear(path: Path, *, video: VideoInfo | None, frames: int) -> NDArray[np.float32] | None:
    """The sound of a file at 16 kHz, (frames * 640,) at most; None where it has no audio stream.

    Args:
        path: a video or a sound.
        video: of the same file: then the sound begins with its first frame, whatever the file's clock says.
        frames: at 25 fps.

    Raises:
        Unfit: the file cannot be read.
    """
    try:
        info = probe(path)
        if info.audio is None:
            return None
        early_s = 0.0 if video is None else video.start_s - info.audio.start_s
        return read_audio(path, rate_hz=RATE_HZ, start_s=early_s, end_s=early_s + frames / CLIP_FPS).samples
    except MediaError as error:
        raise Unfit("unreadable" if path.exists() else "missing", str(error)) from error


def refuse_silent(speech: NDArray[np.float32] | None, *, silent_db: float, whose: str) -> NDArray[np.float32]:
    """Give back the speech, if anything can be heard in it.

    Raises:
        Unfit: there is none, or it is silent.
    """
    if speech is None or not len(speech):
        raise Unfit("silent", f"'{whose}' has no sound")
    loudest_db = 20 * math.log10(max(1e-10, float(np.abs(speech).max())))
    if loudest_db < silent_db:
        raise Unfit(
            "silent", f"'{whose}': its loudest sample is at {loudest_db:.0f} dB, below {silent_db:g} dB"
        )
    return speech


def frames_of_speech(speech: NDArray[np.float32]) -> int:
    """How many frames at 25 fps have all their sound."""
    return len(speech) // SAMPLES_PER_FRAME


def _video_info(video: Path) -> VideoInfo:
    try:
        info = probe(video).video
    except MediaError as error:
        raise Unfit("unreadable" if video.exists() else "missing", str(error)) from error
    if info is None or info.is_picture:
        raise Unfit(
            "unreadable", f"'{video.name}' is {'only sound' if info is None else 'a picture'}, no video"
        )
    return info


def _tracked(video: Path, limit_s: float, preparing: Preparing, faces: Faces) -> Iterator[TrackedFrame]:
    """The frames shown at each 25th of a second, with the face in them."""
    return track(
        at_25_fps(read_frames(video, end_s=limit_s), max_gap_s=math.inf),
        choice=FaceChoice("largest"),
        resolution=preparing.resolution,
        detector=faces.detector,
        landmarker=faces.landmarker,
        settings=TrackSettings(
            sigma_s=preparing.smoothing_s,
            gap_frames=preparing.max_gap_frames,
            follow=FollowSettings(check_every_frames=preparing.detect_every_frames),
        ),
    )
