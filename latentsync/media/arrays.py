"""Pictures and sound that are in memory, saved without loss as files that the rest can read."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io.wavfile
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.media.write import Encoding, VideoWriter
from latentsync.types import FrameImage

Images = Any  # (h w c) a picture, (f h w c), or an iterable of (h w c): arrays, or what numpy reads as such
Samples = Any  # (n,) or (n, channels)
_MOST_CHANNELS = 64
_FPS_DENOMINATOR = 1001  # as in 30000/1001


def save_images(images: Images, folder: Path, *, fps: float) -> Path:
    """Write images as a video without loss, or a single one as a picture; returns the file.

    Args:
        images: (h w c) is a picture; (f h w c) or an iterable of (h w c) is a video, taken one at a time.
            RGB, uint8 in 0..255 or float in 0..1.
        fps: of the video.

    Raises:
        MediaError: there is none, or they are no RGB pictures of one size.
    """
    array = _array_or_none(images)
    if array is not None and array.ndim == 3:
        path = folder / "picture.png"
        cv2.imwrite(str(path), cv2.cvtColor(_rgb_u8(array), cv2.COLOR_RGB2BGR))
        return path
    if not fps > 0:
        raise MediaError(f"fps = {fps}: is no frame rate", hint="give the frames of the array in a second")
    return _save_video(map(_rgb_u8, images if array is None else array), folder / "video.mkv", fps)


def save_samples(samples: Samples, folder: Path, *, rate_hz: int) -> Path:
    """Write samples, (n,) or (n, channels), float in -1..1 or integers, as a wav file; returns it.

    Raises:
        MediaError: they have another shape, or there is none.
    """
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or not len(array) or (array.ndim == 2 and array.shape[1] > _MOST_CHANNELS):
        raise MediaError(
            f"speech of shape {array.shape}: is neither (samples,) nor (samples, channels)",
            hint="give a one-dimensional array, or transpose it",
        )
    path = folder / "speech.wav"
    is_integer = array.dtype in (np.int16, np.int32, np.uint8)
    scipy.io.wavfile.write(path, rate_hz, array if is_integer else array.astype(np.float32))
    return path


def _save_video(images: Iterator[FrameImage], path: Path, fps: float) -> Path:
    first = next(images, None)
    if first is None:
        raise MediaError("no frame: the array or iterator is empty", hint="give at least one frame")
    height, width = first.shape[:2]
    rate = Fraction(fps).limit_denominator(_FPS_DENOMINATOR)
    encoding = Encoding(codec="lossless", preset="ultrafast", pixels="keep")
    with VideoWriter(
        path, width=width, height=height, fps=rate, like=None, speech=None, encoding=encoding
    ) as writer:
        for number, image in enumerate(chain([first], images)):
            if image.shape != first.shape:
                raise MediaError(
                    f"frame {number} has {image.shape[1]}x{image.shape[0]} px, the first {width}x{height}",
                    hint="give frames of one size",
                )
            writer.write(image)
    return path


def _array_or_none(images: Images) -> NDArray[Any] | None:
    """What numpy reads as one array; lists and iterators are taken item by item."""
    return np.asarray(images) if hasattr(images, "__array__") else None


def _rgb_u8(image: Any) -> FrameImage:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise MediaError(
            f"a frame has the shape {pixels.shape}, not (height, width, 3)", hint="give RGB pictures"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not 0 <= pixels.min() <= pixels.max() <= 1:
        raise MediaError(
            f"a frame has {pixels.dtype} values from {pixels.min()} to {pixels.max()}",
            hint="give uint8 in 0..255, or floats in 0..1",
        )
    levels: FrameImage = (pixels * 255 + 0.5).astype(np.uint8)
    return levels
