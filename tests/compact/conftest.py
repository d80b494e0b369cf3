"""Labelled clips of random pixels and sound, and one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

MakeClips = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are the same from run to run only if they are split the same way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_clips(tmp_path: Path) -> MakeClips:
    """Write clips as `label_clips.py` does: faces of 68 random points, drawn as bright dots."""

    def make(*names: str, frames: int = 6, side_px: int = 128) -> Path:
        folder = tmp_path / "clips"
        random = np.random.default_rng(7)
        for name in names:
            clip = folder / name
            clip.mkdir(parents=True)
            loose_points = (48 + 12 * random.standard_normal((3, 68, 2)).clip(-2, 2)).astype(np.float32)
            loose_u8 = np.zeros((3, 96, 96, 3), np.uint8)
            for picture, points in zip(loose_u8, loose_points.astype(int), strict=True):
                picture[points[:, 1], points[:, 0]] = 255
            arrays = {
                "crops_u8": random.integers(0, 255, (frames, side_px, side_px, 3)).astype(np.uint8),
                "points": (64 + 20 * random.standard_normal((frames, 68, 2))).astype(np.float32),
                "time_s": np.arange(frames) / 25,
                "audio": (0.1 * random.standard_normal(frames * 640 + 4000)).astype(np.float32),
                "loose_u8": loose_u8,
                "loose_points": loose_points,
            }
            for field, values in arrays.items():
                np.save(clip / f"{field}.npy", values)
        return folder

    return make
