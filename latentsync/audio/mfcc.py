"""Mel-frequency cepstra, the input of SyncNet v2: 13 numbers a step, 100 steps per second."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from latentsync.axes import expect_axes
from latentsync.rates import AUDIO_HZ

MFCC_STEPS_PER_S = 100
CEPSTRA = 13
FILTERS = 26
FFT_SAMPLES = 512
FRAME_SAMPLES = AUDIO_HZ // 40  # 25 ms
HOP_SAMPLES = AUDIO_HZ // MFCC_STEPS_PER_S
PREEMPHASIS = 0.97
LIFTER = 22
INT16_SCALE = 32768


def mfcc(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cepstra of 16 kHz mono speech.

    Args:
        samples: (n,) in -1..1; rounded to 16 bits, as from a WAV file.

    Returns:
        (t 13), with the logarithm of the energy instead of the first; t = 1 + ceil((n - 400) / 160).

    Source: the defaults of python_speech_features 0.6, with which the judge was trained.
    """
    expect_axes(samples, "t")
    # On the scale of 16 bits, because the logarithm of the energy depends on it.
    speech = np.clip(np.round(samples.astype(np.float64) * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)
    emphasised = np.append(speech[:1], speech[1:] - PREEMPHASIS * speech[:-1])
    steps = 1 + max(0, -(-(len(speech) - FRAME_SAMPLES) // HOP_SAMPLES))
    padded = np.zeros((steps - 1) * HOP_SAMPLES + FRAME_SAMPLES)
    padded[: len(emphasised)] = emphasised
    # No Hann or Hamming window: the default of python_speech_features is a rectangle.
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames, FFT_SAMPLES)) ** 2 / FFT_SAMPLES
    smallest = np.finfo(float).eps
    bands = np.maximum(power @ _filters().T, smallest)
    cepstra = dct(np.log(bands), type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra[:, 0] = np.log(np.maximum(power.sum(1), smallest))
    return np.asarray(cepstra, np.float32)


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """Triangles (filters bins), evenly spaced in mel, whose corners lie on whole bins."""
    highest_mel = 2595 * np.log10(1 + AUDIO_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, highest_mel, FILTERS + 2) / 2595) - 1)
    # One more than FFT_SAMPLES is python_speech_features' own rule.
    corners = np.floor((FFT_SAMPLES + 1) * corners_hz / AUDIO_HZ)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    rising = (bins >= left) & (bins < middle)
    falling = (bins >= middle) & (bins < right)
    return np.where(rising, (bins - left) / (middle - left), 0) + np.where(
        falling, (right - bins) / (right - middle), 0
    )
