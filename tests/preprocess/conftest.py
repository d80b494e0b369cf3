"""Small films with sound, pictures of a face, and a judge that hears loudness and sees brightness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.preprocess.step import Clip, Picture, Source
from latentsync.rates import SAMPLES_PER_FRAME, VIDEO_FPS
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.types import Frame, FrameImage

RECIPE = load_recipe("preprocess", PreprocessRecipe)  # steps take its tables, with changes
MakeFilm = Callable[..., Path]


def card(number: int, size: tuple[int, int]) -> FrameImage:
    """A smooth picture that moves a little from one number to the next."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    red, green = 40 + 150 * columns / size[0], 60 + 100 * rows / size[1]
    return np.stack([red, green, np.full_like(red, 30 + number % 40)], -1).astype(np.uint8)


def astronaut(shift_x: float = 0.0, *, zoom: float = 0.8, size: tuple[int, int] = (320, 240)) -> FrameImage:
    """A public photograph of a face, moved by so many pixels from the middle."""
    offset_px = np.array([size[0] / 2 + shift_x - 222 * zoom, size[1] / 2 - 120 * zoom])
    matrix = np.column_stack([zoom * np.eye(2), offset_px])
    picture = cv2.warpAffine(skimage.data.astronaut(), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(picture, np.uint8)


@pytest.fixture
def make_film(tmp_path: Path) -> MakeFilm:
    """Encode pictures beside a tone; `None` for either leaves it out."""

    def make(
        name: str = "film.mp4",
        *,
        pictures: Iterable[FrameImage] | None = None,
        frames: int = 30,
        size: tuple[int, int] = (64, 48),
        fps: int = 25,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rotation: int = 0,
        times_ms: Iterable[int] | None = None,
        sound_s: float | None = 1.2,
        has_video: bool = True,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = list(pictures or (card(number, size) for number in range(frames)))
        with av.open(f"file:{path}", "w") as container:
            if has_video:
                height, width = shown[0].shape[:2]
                video = container.add_stream(codec, rate=fps, width=width, height=height)
                video.pix_fmt = pix_fmt
                if rotation:
                    video.set_display_rotation(rotation)
                if times_ms is not None:
                    video.codec_context.time_base = Fraction(1, 1000)
            if sound_s is not None:
                audio = container.add_stream("aac", rate=16000)
                audio.codec_context.layout = "mono"
            if has_video:
                times = list(times_ms or range(len(shown)))
                for picture, pts in zip(shown, times, strict=True):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts = pts
                    container.mux(video.encode(frame))
                container.mux(video.encode(None))
            if sound_s is not None:
                tone = 0.4 * np.sin(np.arange(round(sound_s * 16000)) / 20)
                sound = av.AudioFrame.from_ndarray(
                    tone[None].astype(np.float32), format="fltp", layout="mono"
                )
                sound.sample_rate, sound.pts = 16000, 0
                container.mux(audio.encode(sound))
                container.mux(audio.encode(None))
        return path

    return make


@dataclass
class LoudnessJudge:
    """Believes that bright pictures go with loud speech, and can tell by how much they are apart."""

    name: str = "compact"
    window_frames: int = 5

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        brightness = torch.from_numpy(crops_u8.mean((1, 2, 3)) / 255).float()
        if len(brightness) < self.window_frames:
            return torch.empty(0, self.window_frames)
        return brightness.unfold(0, self.window_frames, 1)

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        whole = len(samples) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
        if whole < self.window_frames * SAMPLES_PER_FRAME:
            return torch.empty(0, self.window_frames)
        loudness = np.abs(samples[:whole]).reshape(-1, SAMPLES_PER_FRAME).mean(1)
        return torch.from_numpy(loudness).float().unfold(0, self.window_frames, 1)

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return (visual - audio).norm(dim=1)


@pytest.fixture
def judge() -> LoudnessJudge:
    return LoudnessJudge()


def numbered_frames(count: int, *, fps: float = VIDEO_FPS) -> Iterator[Frame]:
    """Tiny frames whose pixels say which one it is."""
    for number in range(count):
        yield Frame(np.full((2, 2, 3), number % 256, np.uint8), number, number / fps)


def face_points(
    *, x: float = 100, y: float = 100, side: float = 80, nose: float = 0.0
) -> NDArray[np.float32]:
    """68 points in a square of that side; the nose lies so many eye distances from the middle."""
    points = np.full((68, 2), (x, y), np.float32)
    points[0], points[16] = (x - side / 2, y - side / 2), (x + side / 2, y + side / 2)
    points[36:42], points[42:48] = (x - side / 4, y - side / 4), (x + side / 4, y - side / 4)
    points[30] = x + nose * side / 2, y
    return points


def picture_of(points: NDArray[np.float32] | None, *, other_px: float | None = None) -> Picture:
    crop_u8 = None if points is None else np.zeros((8, 8, 3), np.uint8)
    return Picture(crop_u8, points, other_px=other_px)


def clip_of(**facts: object) -> Clip:
    return Clip(source=Source(Path("raw/a.mp4"), "a.mp4"), **facts)  # type: ignore[arg-type]
