"""What is measured of a lip-synced video beside real ones: openings, agreement with the speech, seams.

Not a script to run: `lips.py` and `lip_sheets.py` use it. Videos become crops and points, and crops become
confidences, by the code of `latentsync evaluate`, with its recipe's defaults.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.evaluate.prepare import Faces, Prepared, prepare, read_speech
from latentsync.evaluate.score import content_hash, key_of, points_by
from latentsync.faces.align import square_from_window
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import choose_landmarker
from latentsync.faces.paste import face_region, soft_mouth
from latentsync.media.probe import require_video
from latentsync.media.read import read_frames
from latentsync.metrics.lips import Series, correlation, openings
from latentsync.metrics.sync import BUNDLED_SYNCNET, SyncJudge, choose_judge, distance_per_offset
from latentsync.preprocess.read_video import at_25_fps
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe
from latentsync.types import AffineFrame, FrameImage

PREPARING = load_recipe("evaluate", EvaluateRecipe).prepare

FPS = 25
REAL_S = 15.0  # how much of a real video is looked at: offsets of a few seconds are unreliable
MAX_SHIFT_FRAMES = 15
INNER_LIPS = {68: (62, 66), 468: (13, 14)}
EYES = {
    68: (tuple(range(36, 42)), tuple(range(42, 48))),
    468: ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)),
}
SEAM_EVERY_FRAMES = 5
SEAM_PX = 2.0  # to either side of the border
SEAM_BLUR_PX = 1.0  # noise of the camera would drown the seam, and encoding takes noise away


@dataclass(frozen=True, slots=True)
class Sync:
    """What the compact SyncNet says of a video; see `latentsync.metrics.sync.SyncScore`."""

    confidence: float
    offset_frames: int


@dataclass(frozen=True, slots=True)
class Real:
    """A real video, looked at once.

    prepared     where the face is, and its points; without the crops, which are large
    lips, speech  the judge's vectors (windows d); `speech` is empty without audio
    """

    prepared: Prepared
    lips: torch.Tensor
    speech: torch.Tensor

    def sync(self, frames: int | None = None) -> Sync:
        """How well lips and speech of the first `frames` fit."""
        windows = len(self.lips) if frames is None else frames - (self.prepared.frames - len(self.lips))
        return sync_of(self.lips[:windows], self.speech[:windows])


@cache
def faces() -> Faces:
    return Faces(Detector(), choose_landmarker())


@cache
def judge() -> SyncJudge:
    return choose_judge("compact")


def sync_of(lips: torch.Tensor, speech: torch.Tensor) -> Sync:
    """Confidence and offset of vectors, as `score_sync` has them."""
    distances = distance_per_offset(judge(), lips, speech, max_shift_frames=MAX_SHIFT_FRAMES)
    offset = min(distances, key=lambda each: distances[each])
    return Sync(statistics.median(distances.values()) - distances[offset], offset)


def look_at(video: Path, folder: Path) -> Real:
    """Track a real video, or take what `folder` keeps of an earlier look."""
    kept = folder / f"{video.stem}-{_version()}.npz"
    if kept.exists() and kept.stat().st_mtime > video.stat().st_mtime:
        with np.load(kept) as found:
            return _real(video, dict(found))
    made = prepare(video, PREPARING, faces(), longest_s=REAL_S)
    samples = read_speech(video, video=made.info, frames=made.frames)
    speech = torch.empty(0, 0) if samples is None else judge().embed_speech(samples)
    found = {
        "points": made.points,
        "crop_from_frame": made.crop_from_frame,
        "is_seen": made.seen,
        "first": np.array(made.first),
        "seen": judge().embed_crops(made.crops_u8).numpy(),
        "heard": speech.numpy(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part.npz")
    np.savez_compressed(part, **found)
    part.replace(kept)
    return _real(video, found)


@cache
def _version() -> str:
    """Changes with everything that a look depends on besides the video."""
    parts = [points_by(), content_hash(BUNDLED_SYNCNET), PREPARING.model_dump_json(), str(REAL_S)]
    return key_of(parts)[:8]


def _real(video: Path, found: dict[str, NDArray[np.generic]]) -> Real:
    side = PREPARING.resolution
    prepared = Prepared(
        require_video(video),
        np.empty((0, side, side, 3), np.uint8),
        np.asarray(found["points"], np.float32),
        np.asarray(found["crop_from_frame"], np.float64),
        np.asarray(found["is_seen"], np.bool_),
        int(np.asarray(found["first"])),
    )
    return Real(prepared, *(torch.from_numpy(np.asarray(found[name])) for name in ("seen", "heard")))


def follow(made: Path, driven: Real) -> Prepared:
    """The generated video, cut where the face of the driven one is."""
    return prepare(made, PREPARING, faces(), like=driven.prepared)


def sync_of_video(path: Path, prepared: Prepared) -> Sync:
    """How well the lips of a generated video fit the speech in it."""
    samples = read_speech(path, video=prepared.info, frames=prepared.frames)
    if samples is None:
        raise SystemExit(f"{path}: has no sound")
    return sync_of(judge().embed_crops(prepared.crops_u8), judge().embed_speech(samples))


def openings_of(video: Path, prepared: Prepared, points_dir: Path | None) -> Series:
    """How far the mouth is open at 25 fps: by our points, or by those in `points_dir`."""
    if points_dir is None:
        return openings(prepared.points)
    stored = np.load(points_dir / f"{video.stem}.npz")["points"].astype(np.float64)
    upper, lower = (stored[:, index] for index in INNER_LIPS[stored.shape[1]])
    left, right = (stored[:, list(group)].mean(1) for group in EYES[stored.shape[1]])
    values = np.linalg.norm(upper - lower, axis=1) / np.linalg.norm(left - right, axis=1)
    times_s = np.arange(len(values)) / float(require_video(video).fps)
    grid_s = np.arange(prepared.frames) / FPS
    return np.asarray(np.interp(grid_s[grid_s <= times_s[-1] + 0.5 / FPS], times_s, values))


def at_lag(late: Series, wanted: Series, lag: int) -> float:
    """The correlation where `late` lags behind by `lag` frames."""
    return correlation(late[max(0, lag) :], wanted[max(0, -lag) :])


def seam_energy(made: Path, source: Path, driven: Real) -> tuple[float, float]:
    """Mean gradient across the border of the paste, over that of the source at the same positions.

    The border is where half of the new mouth shows, where the blend changes fastest; a band of
    `SEAM_PX` to either side is looked at, in grey levels of the frame's own pixels, every fifth frame.

    Returns:
        Of the whole border, and of what lies well inside the face: along the jaw the source has an edge of
        its own, in which a seam of 20 grey levels drowns. NaN where no frame shows the border.
    """
    videos = (at_25_fps(read_frames(path), max_gap_s=np.inf) for path in (made, source))
    pairs = islice(zip(*videos, strict=False), 0, driven.prepared.frames, SEAM_EVERY_FRAMES)
    sums = np.zeros((2, 2))  # new and old; whole and inside
    for new, old in pairs:
        seam = _seam(driven.prepared, new.index, new.rgb_u8.shape[:2])
        if seam is not None:
            sums += [_across(frame.rgb_u8, seam) for frame in (new, old)]
    whole, inside = sums[0] / np.where(sums[1] > 0, sums[1], np.nan)
    return float(whole), float(inside)


@dataclass(frozen=True, slots=True)
class _Seam:
    """normal (2 h w; x, y) of the border on the band along it, 0 elsewhere; is_skin (h w) inside the face."""

    normal: NDArray[np.float32]
    is_skin: NDArray[np.bool_]


def _seam(real: Prepared, tick: int, shape: tuple[int, int]) -> _Seam | None:
    """Where the border lies in a frame of that height and width; None where no face is."""
    if not real.seen[tick] or np.isnan(real.points[tick]).any():
        return None
    affine = AffineFrame(real.crop_from_frame[tick], PREPARING.resolution)
    side = affine.resolution
    matrix = (square_from_window(side) @ np.vstack([affine.crop_from_frame, [0, 0, 1]]))[:2]
    frame_from_crop = cv2.invertAffineTransform(matrix)
    points = real.points[tick] @ frame_from_crop[:, :2].T + frame_from_crop[:, 2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    weights = soft_mouth(side) * face_region(points, affine), face_region(points, affine, below=0.0)
    weight, skin = (cv2.warpAffine(each, matrix, shape[::-1], flags=flags) for each in weights)
    shown = weight >= 0.5
    if not shown.any():
        return None
    inside, outside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (shown, ~shown)
    )
    slope = np.stack(np.gradient(cv2.GaussianBlur(inside - outside, (0, 0), 1.0))[::-1])
    band = np.maximum(inside, outside) <= SEAM_PX
    length = np.maximum(np.linalg.norm(slope, axis=0), 1e-6)
    return _Seam(np.asarray(slope / length * band, np.float32), skin >= 0.95)


def _across(rgb_u8: FrameImage, seam: _Seam) -> tuple[float, float]:
    """The sum over the whole border, and over what lies inside the face."""
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), SEAM_BLUR_PX)
    rows, columns = np.gradient(grey)
    across = np.abs(columns * seam.normal[0] + rows * seam.normal[1])
    return float(across.sum()), float(across[seam.is_skin].sum())
