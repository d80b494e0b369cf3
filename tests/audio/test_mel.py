from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.audio.mel import mel_spectrogram, mel_window


def test_golden(golden: Path) -> None:
    case = load_file(golden / "syncnet_mel.safetensors")
    mel = mel_spectrogram(case["wave"].numpy())
    assert mel.shape == case["mel"].shape
    assert (mel - case["mel"]).norm() / case["mel"].norm() < 1e-4


def test_silence_lies_at_the_lower_limit() -> None:
    mel = mel_spectrogram(np.zeros(400, dtype=np.float32))
    assert mel.shape == (80, 3)
    assert mel.unique().tolist() == [-4.0]


def test_no_speech_at_all() -> None:
    assert mel_spectrogram(np.zeros(0, dtype=np.float32)).shape == (80, 1)


@pytest.mark.parametrize(("frames", "steps"), [(5, 16), (16, 52), (25, 80)])
def test_window_of_released_lengths(frames: int, steps: int) -> None:
    mel = torch.arange(100.0).expand(80, 100)
    window = mel_window(mel, 4, frames=frames)
    assert window.shape == (80, steps)
    assert window[0, 0] == 12  # 80 * 4 / 25, rounded down


@pytest.mark.parametrize("first_frame", [-1, 4])
def test_window_beyond_the_speech(first_frame: int) -> None:
    with pytest.raises(ValueError, match="not all within the 60"):
        mel_window(torch.zeros(80, 60), first_frame, frames=16)
