"""Windows of frames of processed clips, at the size and the part of the face that a network sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.manifest import ManifestClip
from latentsync.media.read import read_frames, read_window
from latentsync.train.clips import Features

DecodedCache = Literal["auto", "yes", "no"]
CACHE_BYTES = 8_000_000_000  # "auto" decodes all clips beforehand up to this size


class SeenPart(Protocol):
    """The part of an aligned crop that a network sees, at its size; decoded clips are kept under `kind`."""

    @property
    def frame_bytes(self) -> int: ...

    @property
    def kind(self) -> str: ...

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an aligned crop that is seen, after it was resized to `resolution` a side."""

    resolution: int
    is_lower_half: bool

    @property
    def rows(self) -> int:
        return self.resolution // 2 if self.is_lower_half else self.resolution

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.resolution * 3

    @property
    def kind(self) -> str:
        """The name under which decoded clips are kept."""
        return f"decoded-{self.resolution}-{'lower' if self.is_lower_half else 'whole'}.npy"

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one crop (h w c) and cut the region from it."""
        side = self.resolution
        if frame_u8.shape[:2] != (side, side):
            how = cv2.INTER_AREA if frame_u8.shape[0] > side else cv2.INTER_CUBIC
            frame_u8 = np.asarray(cv2.resize(frame_u8, (side, side), interpolation=how), np.uint8)
        return frame_u8[side - self.rows :]


def decode_clip(clip: ManifestClip, region: SeenPart, features: Features) -> None:
    """Decode a whole clip once and keep its region (f h w c) to be read without decoding.

    Raises:
        MediaError: the clip cannot be decoded, or not all of it.
    """
    if features.path_of(clip, region.kind).exists():
        return
    frames = np.stack([region.cut(frame.rgb_u8) for frame in read_frames(clip.path)])  # f h w c
    if len(frames) < clip.frames:
        raise MediaError(f"{len(frames)} of {clip.frames} frames can be decoded", hint="preprocess it again")
    features.write(clip, region.kind, partial(_save_array, frames))


def _save_array(values: NDArray[np.uint8], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def is_cached(choice: DecodedCache, clips: Iterable[ManifestClip], region: SeenPart) -> bool:
    """Whether clips are to be decoded beforehand: always, never, or when they fit `CACHE_BYTES`."""
    if choice != "auto":
        return choice == "yes"
    return sum(clip.frames for clip in clips) * region.frame_bytes <= CACHE_BYTES


def read_pictures(
    clip: ManifestClip, start: int, frames: int, region: SeenPart, features: Features | None
) -> NDArray[np.uint8]:
    """Frames `start` to `start + frames` of a clip, cut to `region`: (f h w c).

    Args:
        features: where `decode_clip` put the clip; None decodes it now.

    Raises:
        MediaError: the frames cannot be read.
    """
    if features is not None:
        path = features.path_of(clip, region.kind)
        try:
            decoded = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(f"'{path}': cannot be read ({error})", hint="remove this file") from error
        return np.array(decoded[start : start + frames])
    window = read_window(clip.path, range(start, start + frames))
    return np.stack([region.cut(frame) for frame in window])  # f h w c
