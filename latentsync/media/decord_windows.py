"""Windows of processed clips by decord, which opens a file once in a worker and converts colours faster."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.media.read import read_window

logger = logging.getLogger(__name__)
OPEN_FILES = 64  # in one worker; each holds its decoder and the index of its frames
DARKER_LEVELS = 1  # decord rounds down where PyAV, as it is used here, rounds


def read_window_by_decord(path: Path, frames: Sequence[int]) -> NDArray[np.uint8]:
    """Decode the frames with these numbers, in the order given: (f h w c) RGB; by PyAV where decord cannot.

    Made for clips of `preprocess`: constant frame rate, upright, 8 bits. Colours differ from those of
    `read_window` by less than a grey level on average (docs/benchmarks.md).

    Raises:
        MediaError, ValueError: as `read_window`, which then was asked.
    """
    try:
        reader = _opened(path, path.stat().st_mtime_ns)
        if not frames or min(frames) < 0 or max(frames) >= len(reader):
            raise ValueError("decord counts fewer frames")
        decoded = reader.get_batch(list(frames)).asnumpy()
    except Exception as error:  # decord's errors have no class in common; PyAV tells what is wrong
        _warn_once(f"{type(error).__name__}: {error}".splitlines()[0])
        return read_window(path, frames)
    return np.asarray(np.minimum(decoded, 255 - DARKER_LEVELS) + DARKER_LEVELS, np.uint8)


def has_decord() -> bool:
    """Whether decord is installed, which has wheels for Linux on x86-64 only."""
    return find_spec("decord") is not None


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, modified_ns: int) -> Any:
    """The reader of a file, opened in the process that reads it: a fork must not share a decoder."""
    import decord

    return decord.VideoReader(str(path), num_threads=1)


@lru_cache(maxsize=16)
def _warn_once(reason: str) -> None:
    logger.warning("decord cannot read this clip, PyAV does (%s)", reason)
