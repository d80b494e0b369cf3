"""Tiny videos of a red square that counts as a face, and networks that see it."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.evaluate.prepare import Faces
from latentsync.faces.landmarks import Square
from latentsync.media.write import Encoding, write_video
from latentsync.recipe.evaluate import EvaluateRecipe, Preparing
from latentsync.recipe.loading import load_recipe
from latentsync.types import Face, FrameImage

WriteClip = Callable[..., Path]
REACH = 14.0  # half the width of the face, in pixels of the frame


def face_shape() -> NDArray[np.float32]:
    """68 points in -1..1: jaw, brows, nose, eyes, mouth."""
    jaw = [(np.cos(angle), np.sin(angle)) for angle in np.linspace(np.pi, 0, 17)]
    brows = [(x, -0.8) for x in (*np.linspace(-0.8, -0.2, 5), *np.linspace(0.2, 0.8, 5))]
    nose = [(0.0, y) for y in np.linspace(-0.5, 0.1, 4)] + [(x, 0.2) for x in np.linspace(-0.2, 0.2, 5)]
    eyes = [(x, -0.5) for x in (*np.linspace(-0.6, -0.3, 6), *np.linspace(0.3, 0.6, 6))]
    mouth = [(x, 0.6) for x in np.linspace(-0.4, 0.4, 20)]
    return np.array([*jaw, *brows, *nose, *eyes, *mouth], np.float32)


def square_at(rgb_u8: FrameImage) -> NDArray[np.float64] | None:
    """The middle of the red square, or None."""
    rows, columns = np.nonzero((rgb_u8[..., 0] > 150) & (rgb_u8[..., 1] < 110))
    return np.array([columns.mean(), rows.mean()]) if len(rows) > 3 else None


class RedSquares:
    """Detector and landmark network in one: the red square is the middle of a face."""

    def detect(self, rgb_u8: FrameImage) -> list[Face]:
        middle = square_at(rgb_u8)
        if middle is None:
            return []
        box = np.array([*(middle - REACH), *(middle + REACH)], np.float32)
        return [Face(box, 1.0, np.zeros((5, 2), np.float32))]

    def points(self, rgb_u8: FrameImage, square: Square) -> tuple[NDArray[np.float32], float]:
        middle = square_at(rgb_u8)
        where = np.array(square[:2]) if middle is None else middle
        return (face_shape() * REACH + where).astype(np.float32), float(middle is not None)


@pytest.fixture(scope="session")
def faces() -> Faces:
    return Faces(RedSquares(), RedSquares())


@pytest.fixture(scope="session")
def preparing() -> Preparing:
    """Small crops; nothing is smoothed, so that places are exact."""
    return load_recipe("evaluate", EvaluateRecipe).prepare.replaced(resolution=64, min_s=0.5)


def tone(path: Path, duration_s: float, *, level: float) -> Path:
    samples = level * np.sin(np.arange(round(duration_s * 16000)) * 0.2)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def clip_writer(folder: Path) -> WriteClip:
    """Writes videos: `faceless` frames are those without the square, `sound` its loudness or None."""

    def write(
        name: str,
        *,
        duration_s: float = 1.2,
        fps: int = 25,
        side: int = 96,
        x: int = 48,
        faceless: range = range(0),
        sound: float | None = 0.5,
    ) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        speech = None if sound is None else tone(path.with_suffix(".wav"), duration_s, level=sound)
        pictures = [
            np.full((side, side, 3), 40 + number, np.uint8) for number in range(round(duration_s * fps))
        ]
        for number, rgb_u8 in enumerate(pictures):
            if number not in faceless:
                rgb_u8[44:52, x - 4 : x + 4] = (250, 20, 20)
        encoding = Encoding(preset="ultrafast", crf=8)
        return write_video(path, pictures, fps=Fraction(fps), speech=speech, encoding=encoding)

    return write


@pytest.fixture
def write_clip(tmp_path: Path) -> WriteClip:
    return clip_writer(tmp_path)
