"""Small videos, sounds and pictures that the media tests read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

MakeVideo = Callable[..., Path]
MakeSound = Callable[..., Path]


def moving_picture(number: int, *, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth picture that differs from one number to the next: brightness says which one it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    red = 40 + 120 * columns / width
    green = 60 + 100 * rows / height
    blue = np.full_like(red, 30 + 5 * (number % 40))
    return np.stack([red, green, blue], -1).astype(np.uint8)  # h w c


def number_of(rgb_u8: NDArray[np.uint8]) -> int:
    """Which `moving_picture` this is."""
    return round((float(rgb_u8[..., 2].mean()) - 30) / 5)


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Encode numbered pictures, with the stream as an odd camera would leave it."""

    def make(
        name: str = "in.mp4",
        *,
        frames: int = 12,
        size: tuple[int, int] = (64, 48),
        fps: Fraction | int = 25,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rotation: int = 0,
        times: Sequence[int] | None = None,
        keys_every: int = 250,
    ) -> Path:
        path = tmp_path / name
        with av.open(f"file:{path}", "w") as container:
            stream = container.add_stream(codec, rate=fps, width=size[0], height=size[1])
            stream.pix_fmt = pix_fmt
            stream.gop_size = keys_every
            if codec.startswith("libx26"):
                stream.options = {"crf": "10", "x265-params": "log-level=none"}
            if rotation:
                stream.set_display_rotation(rotation)
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for number in range(frames):
                picture = moving_picture(number, width=size[0], height=size[1])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number if times is None else times[number]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def make_sound(tmp_path: Path) -> MakeSound:
    """Encode a rising tone."""

    def make(
        name: str = "speech.wav",
        *,
        codec: str = "pcm_s16le",
        rate_hz: int = 16000,
        layout: str = "mono",
        duration_s: float = 1.0,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate_hz)
            stream.codec_context.layout = layout
            seconds = np.arange(round(duration_s * rate_hz)) / rate_hz
            tone = 0.5 * np.sin(2 * np.pi * (200 + 300 * seconds) * seconds)
            samples = np.repeat(np.rint(tone * 32767).astype(np.int16)[None], stream.channels, 0)
            interleaved = np.ascontiguousarray(samples.T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, 0
            container.start_encoding()
            if frame.samples:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
