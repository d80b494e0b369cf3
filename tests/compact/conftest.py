"""Labelled clips of random pixels and sound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "train"))  # clips that are made there

MakeClips = Callable[..., Path]


@pytest.fixture
def make_clips(tmp_path: Path) -> MakeClips:
    """Write clips as `label_clips.py` does."""

    def make(*names: str, frames: int = 6, side_px: int = 128) -> Path:
        folder = tmp_path / "clips"
        random = np.random.default_rng(7)
        for name in names:
            clip = folder / name
            clip.mkdir(parents=True)
            arrays = {
                "crops_u8": random.integers(0, 255, (frames, side_px, side_px, 3)).astype(np.uint8),
                "points": (64 + 20 * random.standard_normal((frames, 68, 2))).astype(np.float32),
                "time_s": np.arange(frames) / 25,
                "audio": (0.1 * random.standard_normal(frames * 640 + 4000)).astype(np.float32),
            }
            for field, values in arrays.items():
                np.save(clip / f"{field}.npy", values)
        return folder

    return make
