"""Pictures and videos for the page: methods under one another, and clips that play beside their input."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.errors import LatentSyncError
from latentsync.media.read import read_frames
from latentsync.media.write import Encoding, VideoWriter
from latentsync.rates import VIDEO_FPS
from latentsync.types import Frame, FrameImage

HEIGHT_PX = 256  # of each half of a clip that plays
LONGEST_S = 6.0  # of it: a page holds some, and stays below a few MB
QUALITY = 85
Jpeg = bytes


def stack_methods(target: Jpeg | None, strips: Mapping[str, Jpeg]) -> tuple[list[str], Jpeg] | None:
    """Put the same frames of a clip by all methods under one another, below the lips they should have.

    Args:
        target: the strip of the video that the speech is from; None if there is none.
        strips: by method, as `Scorer` cached them: the input above the generated frames, or one row.

    Returns:
        What each row shows, and the picture; None without any strip.

    Source: the paper, figure 10.
    """
    rows: dict[str, NDArray[np.uint8]] = {}
    for method, jpeg in strips.items():
        strip = _decoded(jpeg)
        half = strip.shape[0] // 2
        is_pair = strip.shape[1] < 5 * strip.shape[0]  # six square frames make a row
        if is_pair:
            rows.setdefault("input", strip[:half])
        rows[method] = strip[half:] if is_pair else strip
    if target is not None:
        strip = _decoded(target)
        rows = {"speaker": strip[-strip.shape[1] // 6 :], **rows}
    if not rows:
        return None
    width = min(row.shape[1] for row in rows.values())
    _, encoded = cv2.imencode(
        ".jpg", np.vstack([row[:, :width] for row in rows.values()]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    return list(rows), bytes(encoded.tobytes())


def play_beside(source: Path, made: Path) -> bytes | None:
    """The first seconds of a generated video beside its input, with its sound, as an MP4; None if unreadable.

    Frames are matched by time, at 25 a second.
    """
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            pairs = zip(_at_25_fps(source), _at_25_fps(made), strict=False)
            first = next(pairs, None)
            if first is None:
                return None
            width = 2 * (max(half.shape[1] for half in first) // 2)
            with VideoWriter(
                path,
                width=2 * width,
                height=HEIGHT_PX,
                fps=Fraction(VIDEO_FPS),
                like=None,
                speech=made,
                encoding=Encoding(crf=30),
                duration_s=LONGEST_S,
            ) as writer:
                for halves in (first, *pairs):
                    writer.write(np.hstack([_as_wide(half, width) for half in halves]))
            return path.read_bytes()
    except LatentSyncError:
        return None


def data_uri(content: bytes, kind: str) -> str:
    """`content` as an address that a page can hold.

    >>> data_uri(b"a", "image/jpeg")
    'data:image/jpeg;base64,YQ=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _at_25_fps(path: Path) -> Iterator[FrameImage]:
    """The frames shown every 25th of a second, small."""
    tick, last = 0, None
    for frame in read_frames(path, end_s=LONGEST_S):
        while last is not None and tick / VIDEO_FPS < frame.time_s - 1e-3:
            yield _small(last)
            tick += 1
        last = frame
    if last is not None:
        yield _small(last)


def _small(frame: Frame) -> FrameImage:
    height, width = frame.rgb_u8.shape[:2]
    size = (max(2, round(width * HEIGHT_PX / height)), HEIGHT_PX)
    return np.asarray(cv2.resize(frame.rgb_u8, size, interpolation=cv2.INTER_AREA), np.uint8)


def _as_wide(picture: FrameImage, width: int) -> FrameImage:
    """`picture` in the middle of a black one of that width."""
    picture = picture[:, :width]
    before = (width - picture.shape[1]) // 2
    added = ((0, 0), (before, width - picture.shape[1] - before), (0, 0))
    return np.pad(picture, added)


def _decoded(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def choose_shown(clips: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The clips to be shown by all methods: those that are wanted, or the first one."""
    return [clip for clip in clips if clip in wanted] if wanted else list(clips[:1])
