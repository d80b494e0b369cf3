"""Made clips of a mouth that opens as loudly as a tone sounds, for a tiny SyncNet to learn from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from latentsync.recipe.networks import TowerConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from tests.networks import PAPER_RECIPE

FRAMES, SIDE_PX, RATE_HZ = 50, 32, 16000


def write_clip(path: Path, seed: int, *, frames: int = FRAMES) -> None:
    """A clip of 25 fps whose bright bar is as high as its sound is loud."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.integers(0, 2, frames // 2 + 1), 2)[:frames].astype(float)
    sound = np.sin(2 * np.pi * 300 * np.arange(frames * 640) / RATE_HZ) * np.repeat(loudness, 640) * 0.9
    colour = random.integers(40, 120, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as target:
        video = target.add_stream("libx264", 25, options={"crf": "12", "preset": "ultrafast", "g": "12"})
        video.width = video.height = SIDE_PX
        video.pix_fmt = "yuv420p"
        audio = target.add_stream("aac", RATE_HZ, layout="mono")
        for number, level in enumerate(loudness):
            picture = np.full((SIDE_PX, SIDE_PX, 3), colour, np.uint8)
            picture[18 : 19 + int(12 * level), 8:24] = 240
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        target.mux(_encode_sound(audio, sound))


def _encode_sound(audio: av.AudioStream, sound: NDArray[np.float64]) -> list[av.Packet]:
    frame = av.AudioFrame.from_ndarray(sound.astype(np.float32)[None], format="fltp", layout="mono")
    frame.rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    return [*audio.encode(frame), *audio.encode(None)]


def write_clips(folder: Path, count: int = 12) -> Path:
    """Clips person_00.mp4 and so on."""
    for number in range(count):
        write_clip(folder / f"person_{number:02d}.mp4", number)
    return folder


def tiny_recipe() -> SyncNetRecipe:
    """A SyncNet of a few thousand parameters that sees five frames of 32 px."""
    return PAPER_RECIPE.replaced(
        seed=3,
        held_out=("person_1*",),
        network=PAPER_RECIPE.network.replaced(
            frames=5,
            resolution=32,
            norm_groups=4,
            visual=TowerConfig(channels=(16, 32), factors=((4, 4), (4, 8)), attention=()),
            audio=TowerConfig(channels=(16, 32), factors=((8, 4), (10, 4)), attention=()),
        ),
        negatives=PAPER_RECIPE.negatives.replaced(
            policy="same_clip", min_distance_frames=4, pairing="in_clip_matrix", windows_per_clip=10
        ),
        loss=PAPER_RECIPE.loss,
        optimizer=PAPER_RECIPE.optimizer.replaced(learning_rate=3e-3),
        run=PAPER_RECIPE.run.replaced(
            samples=6 * 48,
            batch_samples=6,
            micro_batch_samples=6,
            precision="fp32",
            average_decay=0.9,
            log_every_samples=6 * 4,
            save_every_samples=6 * 24,
        ),
        validation=PAPER_RECIPE.validation.replaced(every_samples=6 * 24, clips=2, windows_per_clip=24),
    )
