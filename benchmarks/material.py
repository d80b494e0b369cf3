"""Makes inputs for measurements out of files that are there: a larger clip, a longer wav, silence."""

from __future__ import annotations

import wave
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.media.probe import require_video
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter
from latentsync.sync.timeline import play

RATE_HZ = 16000


def make_clip(source: Path, target: Path, *, duration_s: float, short_px: int = 720) -> None:
    """Scale a clip to 16:9 or 9:16 and play it back and forth until it is long enough; no sound."""
    info = require_video(source)
    long_px = short_px * 16 // 9
    width, height = (long_px, short_px) if info.width >= info.height else (short_px, long_px)
    zoom = max(width / info.width, height / info.height)
    size = (round(info.width * zoom), round(info.height * zoom))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    encoding = Encoding(preset="veryfast")
    with VideoWriter(
        target, width=width, height=height, fps=info.fps, like=info, encoding=encoding
    ) as writer:
        for frame in play(source, info, policy="ping-pong", duration_s=duration_s):
            way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
            scaled = cv2.resize(frame.rgb_u8, size, interpolation=way)
            writer.write(np.asarray(scaled[top : top + height, left : left + width], np.uint8))


def make_wav(target: Path, samples: NDArray[np.float32]) -> None:
    """Write mono samples in -1..1 as 16-bit sound."""
    with wave.open(str(target), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE_HZ)
        sound.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def repeat_speech(source: Path, target: Path, *, duration_s: float) -> None:
    """Write the speech again and again until `duration_s`."""
    samples = read_audio(source, rate_hz=RATE_HZ).samples
    make_wav(target, np.resize(samples, round(duration_s * RATE_HZ)))
