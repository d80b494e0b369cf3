"""From videos to what metrics see: aligned crops of one face at 25 fps, generated beside real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.evaluate.pairs import Pair
from latentsync.faces.align import align, control_points, square_from_window
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import FaceFinder
from latentsync.faces.follow import FollowSettings
from latentsync.faces.landmarks import Landmarker
from latentsync.faces.track import TrackedFrame, TrackSettings, track
from latentsync.media.probe import VideoInfo, probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.metric import ScoredClip
from latentsync.preprocess.read_video import at_25_fps
from latentsync.rates import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS
from latentsync.recipe.evaluate import Preparing
from latentsync.types import AffineFrame

VERSION = "1"  # of what is done here: a new one makes all cached scores stale
# Sides of the crop: how far apart two faces may be for the crops of one to fit the other.
_FARTHEST = 0.12
Reason = Literal["missing", "unreadable", "no_face", "too_short", "silent", "failed"]


class UnusableClip(Exception):
    """A clip cannot be scored. Raised and caught within this folder, so that the reason reaches the table.

    reason  explained in docs/evaluate.md
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Faces:
    """The networks that find and follow a face, loaded once.

    points_by  which landmark network it is: scores depend on it
    """

    detector: FaceFinder
    landmarker: Landmarker
    points_by: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A video as one face, one row for each 25th of a second from its first frame on.

    crops_u8   (f h w c); frames before `first` and without a face are cut where the nearest face is
    points     (f 68 2) in pixels of the crop; NaN where no face is found
    crop_from_frame  (f 2 3), to pixels of the upright face box
    seen       (f,) whether a face is found, or bridged between two frames with one
    first      first row with a face
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
        like: cut where the face of this one is, row by row, and stop reading at its end.

    Raises:
        UnusableClip: it is not a video, or shows no face.
    """
    info = _video_info(video)
    limit_s = min(preparing.longest_s, longest_s or math.inf)
    side, most = preparing.resolution, math.ceil(limit_s * VIDEO_FPS)
    if like is not None:
        most = min(most, like.frames)
    crops_u8 = np.empty((most, side, side, 3), np.uint8)  # memory is only taken for frames that are written
    points = np.full((most, 68, 2), np.nan, np.float32)
    transforms = np.zeros((most, 2, 3))
    seen = np.zeros(most, bool)
    frames, first = 0, -1
    try:
        for tick, row in zip(range(most), _tracked(video, limit_s, preparing, faces), strict=False):
            frames = tick + 1
            own = None if row.affine is None else row.affine.crop_from_frame
            transform = own if like is None else like.crop_from_frame[tick]
            seen[tick] = row.face is not None
            if transform is None and first < 0:
                continue
            first = tick if first < 0 else first
            transforms[tick] = transforms[tick - 1] if transform is None else transform
            affine = AffineFrame(transforms[tick], side)
            crops_u8[tick] = align(row.frame.rgb_u8, affine)
            if row.face is not None:
                points[tick] = in_crop(row.face.points, affine)
    except MediaError as error:
        raise UnusableClip("unreadable", str(error)) from error
    if not seen[:frames].any():
        raise UnusableClip("no_face", f"'{video.name}': no face in {frames} frames")
    if like is None:
        first = int(seen.argmax())
        crops_u8[:first], transforms[:first] = crops_u8[first], transforms[first]
    else:
        first = like.first
    cut = slice(0, frames)
    return Prepared(info, crops_u8[cut], points[cut], transforms[cut], seen[cut], first)


def in_crop(points: NDArray[np.float32], affine: AffineFrame) -> NDArray[np.float32]:
    """Points (n 2) of a frame in pixels of its square crop."""
    crop_from_frame = square_from_window(affine.resolution) @ np.vstack([affine.crop_from_frame, [0, 0, 1]])
    moved = points @ crop_from_frame[:2, :2].T + crop_from_frame[:2, 2]
    return np.asarray(moved, np.float32)


def is_aligned(made: Prepared, real: Prepared) -> bool:
    """Whether brows and nose of `made`, which was cut like `real`, are where those of `real` are."""
    frames = min(made.frames, real.frames)
    both = np.flatnonzero(made.seen[:frames] & real.seen[:frames])
    if not len(both):
        return False
    side = made.crops_u8.shape[1]
    apart = [
        np.linalg.norm(control_points(made.points[row]).mean(0) - control_points(real.points[row]).mean(0))
        for row in both
    ]
    # The median, because a few frames with wrong landmarks must not count as another position.
    return bool(np.median(apart) < _FARTHEST * side)


def read_speech(path: Path, *, video: VideoInfo | None, frames: int) -> NDArray[np.float32] | None:
    """The audio of a file at 16 kHz, at most (frames * 640,); None if it has no audio stream.

    Args:
        path: a video or a sound file.
        video: of the same file: then the audio begins with the first frame, whatever the timestamps are.
        frames: at 25 fps.

    Raises:
        UnusableClip: the file cannot be read.
    """
    try:
        info = probe(path)
        if info.audio is None:
            return None
        early_s = 0.0 if video is None else video.start_s - info.audio.start_s
        return read_audio(path, rate_hz=AUDIO_HZ, start_s=early_s, end_s=early_s + frames / VIDEO_FPS).samples
    except MediaError as error:
        raise UnusableClip("unreadable" if path.exists() else "missing", str(error)) from error


def refuse_silent(speech: NDArray[np.float32] | None, *, silent_db: float, whose: str) -> NDArray[np.float32]:
    """Return the speech, unless it is silent.

    Raises:
        UnusableClip: there is none, or it is silent.
    """
    if speech is None or not len(speech):
        raise UnusableClip("silent", f"'{whose}' has no audio")
    loudest_db = 20 * math.log10(max(1e-10, float(np.abs(speech).max())))
    if loudest_db < silent_db:
        raise UnusableClip(
            "silent", f"'{whose}': its loudest sample is at {loudest_db:.0f} dB, below {silent_db:g} dB"
        )
    return speech


def frames_of_speech(speech: NDArray[np.float32]) -> int:
    """How many frames at 25 fps have all their audio."""
    return len(speech) // SAMPLES_PER_FRAME


def _video_info(video: Path) -> VideoInfo:
    try:
        info = probe(video).video
    except MediaError as error:
        raise UnusableClip("unreadable" if video.exists() else "missing", str(error)) from error
    if info is None or info.is_picture:
        raise UnusableClip(
            "unreadable", f"'{video.name}' is {'only audio' if info is None else 'a picture'}, not a video"
        )
    return info


def _tracked(video: Path, limit_s: float, preparing: Preparing, faces: Faces) -> Iterator[TrackedFrame]:
    """The frames shown at each 25th of a second, with the face in them."""
    return track(
        # Metrics compare row by row, so every 25th of a second has a frame, across gaps, too.
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


@dataclass(slots=True)
class RealSide:
    """The real side of a pair, read when it is first needed and then kept."""

    pair: Pair
    preparing: Preparing
    faces: Faces
    _real: Prepared | UnusableClip | None = None
    _speaker: Prepared | UnusableClip | None = None

    def real(self) -> Prepared:
        """The input video.

        Raises:
            UnusableClip: it is not a video, or shows no face.
        """
        if self._real is None:
            self._real = self._prepared(self.pair.video)
        if isinstance(self._real, UnusableClip):
            raise self._real
        return self._real

    def speaker_points(self) -> NDArray[np.float32] | None:
        """The speaker's points in crops of their own video; None without one, or without a face in it."""
        if self.pair.speaker is None or self.pair.speaker == self.pair.video:
            return None
        if self._speaker is None:
            self._speaker = self._prepared(self.pair.speaker)
        return None if isinstance(self._speaker, UnusableClip) else self._speaker.points

    def _prepared(self, video: Path) -> Prepared | UnusableClip:
        try:
            return prepare(video, self.preparing, self.faces, longest_s=self.pair.length_s)
        except UnusableClip as unusable:
            return unusable


@dataclass(frozen=True, slots=True)
class Matched:
    """A clip as metrics see it, from these `rows` of the prepared videos; `notes` say what was done."""

    clip: ScoredClip
    notes: list[str]
    rows: slice


def real_clip(side: RealSide) -> Matched:
    """The real video with its own audio; it is not a reference for itself."""
    pair, preparing = side.pair, side.preparing
    real = side.real()
    is_own = pair.sound == pair.video
    speech = read_speech(pair.sound, video=real.info if is_own else None, frames=real.frames)
    speech = refuse_silent(speech, silent_db=preparing.silent_db, whose=pair.sound.name)
    rows = _rows(real.first, min(real.frames, frames_of_speech(speech)), preparing)
    _refuse_faceless(real, rows, preparing, pair.video.name)
    clip = ScoredClip(
        name=f"{pair.setting}/{pair.name}",
        made_u8=real.crops_u8[rows],
        speech=_during(speech, rows),
        made_points=real.points[rows],
    )
    return Matched(clip, _time_notes(real, None, rows), rows)


def made_clip(side: RealSide, path: Path) -> Matched:
    """A method's video beside its input, cut to the span in which both show a face and there is speech."""
    pair, preparing, real = side.pair, side.preparing, side.real()
    made, notes = _beside(path, real, side)
    speech = read_speech(path, video=made.info, frames=made.frames)
    if speech is None:
        notes.append("no audio: the pair's speech is used")
        is_video = pair.speech == pair.video
        speech = read_speech(pair.speech, video=real.info if is_video else None, frames=made.frames)
    speech = refuse_silent(speech, silent_db=preparing.silent_db, whose=path.name)
    last = min(real.frames, made.frames, frames_of_speech(speech))
    rows = _rows(max(real.first, made.first), last, preparing)
    _refuse_faceless(real, rows, preparing, pair.video.name)
    _refuse_faceless(made, rows, preparing, path.name)
    is_cross = pair.setting == "cross"
    points = real.points[rows]
    clip = ScoredClip(
        name=f"{pair.setting}/{pair.name}",
        made_u8=made.crops_u8[rows],
        real_u8=None if is_cross else real.crops_u8[rows],  # in the cross setting nobody says these words
        speech=_during(speech, rows),
        made_points=made.points[rows],
        real_points=None if is_cross else points,
        # In reconstruction the input is the speaker.
        speaker_points=_speaker_points(side, rows) if is_cross else points,
        input_points=points,
        input_u8=real.crops_u8[rows],
    )
    return Matched(clip, notes + _time_notes(made, real, rows), rows)


def _beside(path: Path, real: Prepared, side: RealSide) -> tuple[Prepared, list[str]]:
    """The generated video, cut where the real face is if frame size and position of the face agree."""
    preparing, faces = side.preparing, side.faces
    # What is longer than the real video has nothing to be compared with.
    limit_s = real.frames / VIDEO_FPS
    # Cut alike, so that a pixel outside the mouth is the same pixel of the frame in both crops.
    made = prepare(path, preparing, faces, longest_s=limit_s, like=real)
    size, real_size = ((one.info.width, one.info.height) for one in (made, real))
    if size == real_size and is_aligned(made, real):
        return made, []
    why = "its face is elsewhere in the frame"
    if size != real_size:
        why = f"{size[0]}x{size[1]} px, the input {real_size[0]}x{real_size[1]}"
    own = prepare(path, preparing, faces, longest_s=limit_s)
    return own, [f"{why}: cut around its own face"]


def _rows(first: int, last: int, preparing: Preparing) -> slice:
    if last - first < math.ceil(preparing.min_s * VIDEO_FPS):
        used_s = max(0, last - first) / VIDEO_FPS
        raise UnusableClip("too_short", f"{used_s:.2f} s with face and speech, under {preparing.min_s:g} s")
    return slice(first, last)


def _refuse_faceless(prepared: Prepared, rows: slice, preparing: Preparing, whose: str) -> None:
    share = float(prepared.seen[rows].mean())
    if share < preparing.min_share:
        raise UnusableClip(
            "no_face", f"'{whose}': a face in {share:.0%} of the frames, under {preparing.min_share:.0%}"
        )


def _during(speech: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
    return speech[rows.start * SAMPLES_PER_FRAME : rows.stop * SAMPLES_PER_FRAME]


def _speaker_points(side: RealSide, rows: slice) -> NDArray[np.float32] | None:
    """The speaker's points at the same times as `rows`; NaN after the end of the speaker's video."""
    points = side.speaker_points()
    if points is None:
        return None
    taken = points[rows]
    # NaN, which every metric leaves out, keeps the rows aligned in time.
    padding = np.full((rows.stop - rows.start - len(taken), 68, 2), np.nan, np.float32)
    return np.concatenate([taken, padding])


def _time_notes(made: Prepared, real: Prepared | None, rows: slice) -> list[str]:
    """What was done to match a video by time."""
    notes = []
    if made.info.is_variable or abs(float(made.info.fps) - VIDEO_FPS) > 0.01:
        shown = "variable frame rate" if made.info.is_variable else f"{float(made.info.fps):.4g} fps"
        notes.append(f"{shown}: shown at 25 fps by time")
    used_s = (rows.stop - rows.start) / VIDEO_FPS
    lengths = [made.info.duration_s] if real is None else [made.info.duration_s, real.info.duration_s]
    if any(abs(length - used_s) > 1.5 / VIDEO_FPS for length in lengths):
        of = " and ".join(f"{length:.2f} s" for length in lengths)
        notes.append(f"{used_s:.2f} s compared, from {rows.start / VIDEO_FPS:.2f} s on, of {of}")
    return notes
