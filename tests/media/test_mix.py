"""The original sound under the speech: levels measured by their tones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

from latentsync.errors import UsageError
from latentsync.media.mix import KeepAudio, mix_sound, parse_keep_audio
from latentsync.media.sound import read_audio

RATE_HZ = 16_000
SPEECH_HZ, ORIGINAL_HZ = 400.0, 1500.0


def tone(path: Path, hz: float, seconds: float, *, silent_s: float = 0.0) -> Path:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    samples = 0.25 * np.sin(2 * np.pi * hz * times) * (times >= silent_s)
    scipy.io.wavfile.write(path, RATE_HZ, samples.astype(np.float32))
    return path


def level_db(path: Path, hz: float, start_s: float, end_s: float) -> float:
    """How loud a tone is, against the 0.25 that it was written with."""
    samples = read_audio(path).samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
    times = np.arange(len(samples)) / RATE_HZ
    amplitude = 2 * abs(np.mean(samples * np.exp(-2j * np.pi * hz * times)))
    return float(20 * np.log10(amplitude / 0.25 + 1e-9))


@pytest.fixture
def sounds(tmp_path: Path) -> tuple[Path, Path]:
    """Two seconds of silence and two of speech; three seconds of original."""
    speech = tone(tmp_path / "speech.wav", SPEECH_HZ, 4.0, silent_s=2.0)
    return speech, tone(tmp_path / "original.wav", ORIGINAL_HZ, 3.0)


def test_a_mix_has_both_at_their_levels(sounds: tuple[Path, Path], tmp_path: Path) -> None:
    mix_sound(*sounds, tmp_path / "mixed.m4a", keep=KeepAudio("mix", -6.0), duration_s=4.0)
    mixed = tmp_path / "mixed.m4a"
    assert read_audio(mixed).duration_s == pytest.approx(4.0, abs=0.03)
    assert level_db(mixed, ORIGINAL_HZ, 0.2, 1.8) == pytest.approx(-6.0, abs=0.5)
    assert level_db(mixed, SPEECH_HZ, 2.2, 3.8) == pytest.approx(0.0, abs=0.5)
    assert level_db(mixed, ORIGINAL_HZ, 3.2, 3.8) < -40  # it is over, and not repeated


def test_ducking_lowers_the_original_only_during_speech(sounds: tuple[Path, Path], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.m4a"
    mix_sound(*sounds, mixed, keep=parse_keep_audio("duck"), duration_s=4.0)
    assert level_db(mixed, ORIGINAL_HZ, 0.2, 1.8) == pytest.approx(0.0, abs=0.5)
    assert level_db(mixed, ORIGINAL_HZ, 2.4, 2.9) == pytest.approx(-15.0, abs=1.0)


def test_the_part_that_is_used_is_what_is_mixed(sounds: tuple[Path, Path], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.m4a"
    keep = KeepAudio("mix", 0.0)
    mix_sound(*sounds, mixed, keep=keep, duration_s=2.0, skip_s=-0.5, original_s=1.0)
    assert level_db(mixed, ORIGINAL_HZ, 0.05, 0.4) < -40
    assert level_db(mixed, ORIGINAL_HZ, 0.6, 1.4) == pytest.approx(0.0, abs=0.5)
    assert level_db(mixed, ORIGINAL_HZ, 1.6, 1.95) < -40


@pytest.mark.parametrize("text", ["loud", "mix:", "mix:a", "duck:3"])
def test_other_ways_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--keep-audio '{text}'"):
        parse_keep_audio(text)
