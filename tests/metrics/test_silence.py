from __future__ import annotations

import numpy as np
import pytest

from latentsync.metrics.lips import silent_frames

RANDOM = np.random.default_rng(1)


def noise(loudness: list[tuple[int, float]]) -> np.ndarray:
    """Noise in runs of (frames, loudness)."""
    parts = [RANDOM.uniform(-1, 1, frames * 640) * loud for frames, loud in loudness]
    return np.concatenate(parts).astype(np.float32)


def test_quiet_frames_are_silent_at_any_recording_level() -> None:
    for gain in (1.0, 0.05):
        found = silent_frames(gain * noise([(20, 0.8), (15, 0.005), (20, 0.8)]), frames=55)
        # Smoothing keeps one frame at either side.
        assert np.flatnonzero(found).tolist() == list(range(21, 34))


@pytest.mark.parametrize(
    "speech",
    [noise([(20, 0.8), (15, 0.05), (20, 0.8)]), noise([(20, 0.8), (6, 0.0), (20, 0.8)])],
    ids=["24 dB is not quiet", "0.16 s is not long"],
)
def test_what_is_not_silent(speech: np.ndarray) -> None:
    assert not silent_frames(speech, frames=len(speech) // 640).any()


def test_frames_without_sound_are_silent() -> None:
    assert silent_frames(np.zeros(6400, np.float32), frames=10).all()
    assert silent_frames(np.zeros(0, np.float32), frames=10).all()
    found = silent_frames(noise([(20, 0.8)]), frames=40)
    assert np.flatnonzero(found).tolist() == list(range(21, 40))
