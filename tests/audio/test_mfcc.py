from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync.audio.mfcc import mfcc


def test_golden(golden: Path) -> None:
    case = load_file(golden / "syncnet_v2_mfcc.safetensors")
    cepstra = mfcc(case["wave_int16"].astype(np.float32) / 32768)
    assert cepstra.shape == case["mfcc"].shape
    assert np.linalg.norm(cepstra - case["mfcc"]) / np.linalg.norm(case["mfcc"]) < 1e-4


@pytest.mark.parametrize(("samples", "steps"), [(0, 1), (400, 1), (401, 2), (16000, 99)])
def test_silence_of_any_length(samples: int, steps: int) -> None:
    cepstra = mfcc(np.zeros(samples, np.float32))
    assert cepstra.shape == (steps, 13)
    assert np.isfinite(cepstra).all()


def test_louder_than_16_bits() -> None:
    wave = np.sin(np.arange(800, dtype=np.float32))
    np.testing.assert_array_equal(mfcc(3 * wave), mfcc(np.clip(3 * wave, -1, 1)))
