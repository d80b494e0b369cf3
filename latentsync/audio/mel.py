"""The mel spectrogram that a SyncNet takes: 80 bands, 80 columns per second."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.rates import AUDIO_HZ, MEL_COLUMNS_PER_S, mel_columns

MELS = 80
FFT_SAMPLES = 800
HOP_SAMPLES = AUDIO_HZ // MEL_COLUMNS_PER_S
LOWEST_HZ, HIGHEST_HZ = 55.0, 7600.0
PREEMPHASIS = 0.97
REFERENCE_DB, RANGE_DB = 20.0, 100.0
LIMIT = 4.0  # the spectrogram lies in -4..4
SMALLEST_MAGNITUDE = 1e-5  # -100 dB, the official min_level_db


def mel_spectrogram(samples: NDArray[np.float32]) -> Tensor:
    """The mel spectrogram of 16 kHz mono speech.

    Args:
        samples: (n,) in -1..1.

    Returns:
        (80 t) float32 in -4..4, with t = 1 + n // 200 columns centred on every 200th sample.

    Source: the official `configs/audio.yaml`, the same as in Wav2Lip.
    """
    expect_axes(samples, "t")
    speech = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    emphasised = torch.cat([speech[:1], speech[1:] - PREEMPHASIS * speech[:-1]])
    spectrum = torch.stft(
        # Zeros, not the mirrored signal: librosa's default, by which the official features are made.
        nn.functional.pad(emphasised, (FFT_SAMPLES // 2, FFT_SAMPLES // 2)),
        FFT_SAMPLES,
        HOP_SAMPLES,
        window=torch.hann_window(FFT_SAMPLES),
        center=False,
        return_complex=True,
    )
    magnitudes = (_mel_filters() @ spectrum.abs()).clamp(min=SMALLEST_MAGNITUDE)
    # 20, not 10: these are magnitudes, not powers.
    decibels = 20 * magnitudes.log10() - REFERENCE_DB
    return (2 * LIMIT * (decibels + RANGE_DB) / RANGE_DB - LIMIT).clamp(-LIMIT, LIMIT)


def mel_window(mel: Tensor, first_frame: int, *, frames: int, video_fps: int = 25) -> Tensor:
    """The columns of `mel` (80 t) that belong to `frames` frames from `first_frame` on.

    Returns:
        (80, ceil(frames / 5 * 16)), which is right for 25 fps.

    Raises:
        ValueError: the window begins before the speech or ends after it; nothing is filled up.

    >>> mel_window(torch.zeros(80, 100), 5, frames=16).shape
    torch.Size([80, 52])
    """
    expect_axes(mel, "d t", d=MELS)
    first = MEL_COLUMNS_PER_S * first_frame // video_fps
    last = first + mel_columns(frames)
    if first < 0 or last > mel.shape[1]:
        raise ValueError(f"mel columns {first} to {last} are not all within the {mel.shape[1]} of the speech")
    return mel[:, first:last]


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    make_torchvision_importable()
    from transformers.audio_utils import mel_filter_bank

    bins = FFT_SAMPLES // 2 + 1
    filters = mel_filter_bank(bins, MELS, LOWEST_HZ, HIGHEST_HZ, AUDIO_HZ, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters.T.astype(np.float32))  # (mels, bins)
