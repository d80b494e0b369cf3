"""Noise and music are found where nobody speaks; speech and its quiet pauses stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.audio.activity import noise_spans, without_noise
from latentsync.media.sound import read_audio

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    """Two seconds of silence, three of our own spoken example, and two of silence."""
    samples = read_audio(Path(__file__).parents[2] / "examples" / "speech.wav", end_s=3.0).samples
    return np.pad(samples, 2 * RATE_HZ)


def chords(seconds: float) -> NDArray[np.float32]:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = [np.sin(2 * np.pi * hz * times) for hz in (220.0, 277.2, 329.6)]
    return (0.03 * np.sum(tones, axis=0) * (1.2 - times % 0.5)).astype(np.float32)


def noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.03, round(seconds * RATE_HZ)).astype(np.float32)


@pytest.mark.parametrize("sound", [chords, noise])
def test_noise_and_music_around_speech_are_found(speech: NDArray[np.float32], sound: object) -> None:
    assert callable(sound)
    before, after = noise_spans(speech + sound(7.0))
    assert before[0] < 0.1 and 1.6 < before[1] < 2.3
    assert 4.8 < after[0] < 5.5 and after[1] > 6.9


def test_speech_without_noise_stays_as_it_is(speech: NDArray[np.float32]) -> None:
    assert noise_spans(speech) == []
    assert without_noise(speech, []) is speech


def test_what_holds_hardly_any_speech_stays_as_it_is(speech: NDArray[np.float32]) -> None:
    assert noise_spans(chords(3.0)) == []
    assert noise_spans(np.concatenate([speech[: 3 * RATE_HZ], noise(20.0)])) == []
    assert noise_spans(np.zeros(100, np.float32)) == []


def test_spans_are_faded_to_silence() -> None:
    loud = np.ones(2 * RATE_HZ, np.float32)
    quiet = without_noise(loud, [(0.0, 0.5), (1.0, 1.5)])
    assert quiet[0] == quiet[4000] == quiet[20_000] == 0 and quiet[12_000] == quiet[-1] == 1
    assert np.abs(np.diff(quiet)).max() < 0.01
    assert loud.min() == 1  # the given sound is not changed
