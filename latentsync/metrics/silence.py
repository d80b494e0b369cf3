"""Which frames of a clip are silent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BELOW_SPEECH_DB = 35.0
FLOOR_RMS = 1e-4  # -80 dB of full scale: silent, however quiet the rest is
LOUD_PERCENTILE = 95
LEAST_SILENCE_S = 0.2
SMOOTHED_FRAMES = 3


def silent_frames(
    samples: NDArray[np.float32], *, frames: int, fps: float = 25.0, rate_hz: int = 16000
) -> NDArray[np.bool_]:
    """Tell for each of `frames` frames (f,) whether it is silent.

    The level of a frame is the RMS of the sound while it is shown, smoothed over three frames. It is silent
    if that lies more than 35 dB under the 95th percentile of the clip, or under -80 dB of full scale, for
    0.2 s at least. Frames past the end of the sound are silent.

    Source: ours, because a threshold relative to the speech needs no network and fits any recording level.
    """
    levels = np.sqrt(_smoothed(_power(samples, frames=frames, samples_per_frame=rate_hz / fps)))
    sounding = levels[: max(1, int(len(samples) * fps / rate_hz))]
    loud = float(np.percentile(sounding, LOUD_PERCENTILE)) if len(sounding) else 0.0
    is_quiet = levels < max(loud * 10 ** (-BELOW_SPEECH_DB / 20), FLOOR_RMS)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_quiet, [False]])))
    for first, stop in edges.reshape(-1, 2):
        if stop - first < round(LEAST_SILENCE_S * fps):
            is_quiet[first:stop] = False
    return np.asarray(is_quiet)


def _power(
    samples: NDArray[np.float32], *, frames: int, samples_per_frame: float
) -> NDArray[np.float64]:  # (f,)
    bounds = np.minimum(np.round(np.arange(frames + 1) * samples_per_frame).astype(int), len(samples))
    total = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])[bounds]
    return np.asarray(np.diff(total) / samples_per_frame)


def _smoothed(power: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = SMOOTHED_FRAMES // 2
    padded = np.pad(power, reach, mode="edge")
    return np.convolve(padded, np.full(SMOOTHED_FRAMES, 1 / SMOOTHED_FRAMES), "valid")
