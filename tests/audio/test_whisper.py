"""The log-mel, the encoder's states, and long speech."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latentsync.audio.whisper import CHUNK_STATES, SpeechStates, WhisperEncoder, encode_speech, log_mel
from latentsync.audio.windows import states_for_frames
from latentsync.axes import expect_axes
from latentsync.media.sound import read_audio
from latentsync.weights.released import load_whisper

SPEECH = ("english_2.wav", "english_3.wav")  # 38 s together


def error(ours: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    return float((ours - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def small(tiny_pt: Path) -> WhisperEncoder:
    return load_whisper(tiny_pt, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def bundled() -> WhisperEncoder:
    path = Path(str(files("latentsync.bundled") / "whisper-tiny-en.safetensors"))
    return load_whisper(path, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def speech(media: Path) -> np.ndarray:
    return np.concatenate([read_audio(media / "speech" / name).samples for name in SPEECH])


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def test_log_mel_is_the_reference_s(golden: Path) -> None:
    case = load_file(golden / "whisper_small.safetensors")
    assert error(log_mel(case["wave"].numpy()), case["log_mel"]) < 1e-4


@pytest.mark.parametrize("mode", ["exact", "overlap"])
def test_states_are_the_reference_s(golden: Path, small: WhisperEncoder, mode: str) -> None:
    case = load_file(golden / "whisper_small.safetensors")
    features = encode_speech(small, case["wave"].numpy(), mode=mode)
    assert features.shape == case["features"].shape
    assert error(features, case["features"]) < 1e-4


def test_log_mel_in_blocks_equals_one_transform() -> None:
    samples = noise(31)
    samples[: len(samples) // 2] *= 1e-6
    spectrum = torch.stft(
        torch.from_numpy(samples), 400, 160, window=torch.hann_window(400), center=True, return_complex=True
    )
    loudest_is_late = log_mel(samples)
    assert loudest_is_late.shape == (80, spectrum.shape[1] - 1)
    assert loudest_is_late[:, :1000].std() < 1e-5  # all under the floor that the loud half sets
    assert error(log_mel(samples)[:, 2990:3010], log_mel(samples[16000:])[:, 2890:2910]) < 1e-6


@pytest.mark.parametrize("samples", [1, 160, 399])
def test_a_blip_gives_one_step(small: WhisperEncoder, samples: int) -> None:
    assert encode_speech(small, noise(1)[:samples]).shape == (1, 5, 64)


def test_silence_gives_finite_states(small: WhisperEncoder) -> None:
    assert encode_speech(small, np.zeros(16000, np.float32)).isfinite().all()


def test_exact_pieces_do_not_know_each_other(small: WhisperEncoder) -> None:
    samples = noise(62)
    pieces = log_mel(samples)
    features = encode_speech(small, samples, mode="exact")
    assert len(features) == 3100
    torch.testing.assert_close(features[1500:3000], small.states(pieces[None, :, 3000:6000])[0])
    last = torch.nn.functional.pad(pieces[:, 6000:], (0, 2800))
    torch.testing.assert_close(features[3000:], small.states(last[None])[0, :100])


@pytest.mark.parametrize("seconds", [30.02, 31, 55, 56.5, 95])
def test_long_speech_keeps_its_length_and_ends_on_real_sound(small: WhisperEncoder, seconds: float) -> None:
    samples = noise(seconds)
    features = encode_speech(small, samples)
    assert len(features) == len(samples) // 320
    end = log_mel(samples)[:, 2 * (len(features) - CHUNK_STATES) :][:, :3000]
    torch.testing.assert_close(features[-500:], small.states(end[None])[0, -500:])


def test_states_read_out_of_order_equal_those_of_the_whole(small: WhisperEncoder) -> None:
    samples = noise(95)
    features = encode_speech(small, samples)
    times_s = [94.9, 0.0, 27.5, 28.0, 60.0]
    taken = states_for_frames(SpeechStates(small, samples), times_s)
    torch.testing.assert_close(taken, states_for_frames(features, times_s))


def test_nothing_happens_at_thirty_seconds(bundled: WhisperEncoder, speech: np.ndarray) -> None:
    seam = range(CHUNK_STATES - 10, CHUNK_STATES + 10)
    start = 500  # a window in which 30 s lies in the middle of the sound that there is
    mel = log_mel(speech)
    centred = bundled.states(torch.nn.functional.pad(mel[None, :, 2 * start :], (0, 3000))[:, :, :3000])[0]
    errors = {
        mode: error(
            encode_speech(bundled, speech, mode=mode)[seam, 3], centred[[step - start for step in seam], 3]
        )
        for mode in ("overlap", "exact")
    }
    assert errors["overlap"] < 0.6 * errors["exact"]


def test_overlapped_speech_does_not_jump_at_its_seam(bundled: WhisperEncoder, speech: np.ndarray) -> None:
    def jump(features: Tensor, *, seam: int) -> float:
        jumps = features[:, 0].diff(dim=0).norm(dim=1)
        return float(jumps[seam - 15 : seam + 15].max() / jumps.median())

    overlapped = encode_speech(bundled, speech)
    middle = len(overlapped) // 2  # two windows, one from the start and one up to the end
    assert jump(encode_speech(bundled, speech, mode="exact"), seam=CHUNK_STATES) > 4
    assert jump(overlapped, seam=middle) < 2
    assert jump(overlapped, seam=CHUNK_STATES) < 2


def test_windows_are_kept_two_at_a_time(small: WhisperEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    states = small.states

    def counted(mel: Tensor) -> Tensor:
        expect_axes(mel, "b d t", b=1)
        runs.append(1)
        return states(mel)

    monkeypatch.setattr(small, "states", counted)
    speech = SpeechStates(small, noise(80))
    for first in range(0, len(speech), 100):
        speech.take(torch.arange(first, min(first + 100, len(speech))))
    assert len(runs) == 3
