"""Where nobody speaks although it is loud: noise and music, in which the mouth should be closed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.errors import UsageError
from latentsync.rates import AUDIO_HZ

CHUNK = 512  # samples that the network takes at once: 32 ms
CHUNK_S = CHUNK / AUDIO_HZ
BEGINS, ENDS = 0.85, 0.7  # probability at which speech begins, and below which it ends
SHORTEST_S = 0.4  # a pause that is shorter belongs to the speech
BEFORE_S, AFTER_S = 0.45, 0.13  # margins of speech: the network is late where a sound begins
DEPTH_DB = 25.0  # so far below the speech a pause is quiet, and the mouth closes by itself
LEAST_SHARE = 0.5  # of what is loud that must be speech; less is a song, or speech that is drowned
FADE_S = 0.03


@cache
def _network() -> Any:
    # Its module is not imported: that would set the number of threads of this process to one.
    found = importlib.util.find_spec("silero_vad")
    path = Path(found.origin if found and found.origin else "").parent / "data" / "silero_vad.jit"
    if not path.is_file():
        raise UsageError(
            "silero-vad, which finds speech, is not installed",
            hint="run: pip install silero-vad, or add --set audio.activity=off",
        )
    return torch.jit.load(str(path)).eval()


def speech_probability(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """How likely it is that somebody speaks, for each 32 ms of a 16 kHz sound (n,).

    Source: Silero VAD, a network that is trained on speech in many languages and noises.
    """
    network = _network()
    network.reset_states()
    chunks = samples[: len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)
    with torch.inference_mode():
        return np.array([float(network(torch.from_numpy(chunk.copy()), AUDIO_HZ)) for chunk in chunks], "f4")


def noise_spans(samples: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Spans in seconds in which nobody speaks, though they are hardly quieter than the speech.

    None where hardly anything is speech.
    """
    likely = speech_probability(samples)
    if not len(likely):
        return []
    power = np.square(samples[: len(likely) * CHUNK].reshape(-1, CHUNK), dtype=np.float64).mean(1)
    level_db = 10 * np.log10(power + 1e-12)
    is_speech = _is_speech(likely)
    if not is_speech.any():
        return []
    loud_db = float(np.percentile(level_db[is_speech], 90)) - DEPTH_DB
    is_loud = level_db > loud_db
    if (is_speech & is_loud).sum() < LEAST_SHARE * is_loud.sum():
        return []
    spans = []
    for first, end in runs(~is_speech):
        loud = first + np.flatnonzero(is_loud[first:end])
        # Missed speech has gaps between its sounds; noise and music have none.
        if len(loud) and np.percentile(level_db[loud[0] : loud[-1] + 1], 10) > loud_db:
            spans.append((float(loud[0]) * CHUNK_S, float(loud[-1] + 1) * CHUNK_S))
    return [span for span in spans if span[1] - span[0] >= SHORTEST_S / 2]


def without_noise(samples: NDArray[np.float32], spans: list[tuple[float, float]]) -> NDArray[np.float32]:
    """The sound with silence in `spans`, faded in and out."""
    if not spans:
        return samples
    quiet = samples.copy()
    fade = round(FADE_S * AUDIO_HZ)
    for start_s, end_s in spans:
        first, end = round(start_s * AUDIO_HZ), min(len(samples), round(end_s * AUDIO_HZ))
        gain = np.zeros(end - first, np.float32)
        if first:
            gain[:fade] = np.linspace(1, 0, fade)[: len(gain)]
        if end < len(samples):
            gain[-fade:] = np.maximum(gain[-fade:], np.linspace(0, 1, fade)[-len(gain) :])
        quiet[first:end] *= gain
    return quiet


def _is_speech(likely: NDArray[np.float32]) -> NDArray[np.bool_]:
    is_speech = np.zeros(len(likely), bool)
    is_on = False
    for number, probability in enumerate(likely):
        is_on = bool(probability >= (ENDS if is_on else BEGINS))
        is_speech[number] = is_on
    for first, end in runs(~is_speech):
        if (end - first) * CHUNK_S < SHORTEST_S and first and end < len(likely):
            is_speech[first:end] = True
    before, after = round(BEFORE_S / CHUNK_S), round(AFTER_S / CHUNK_S)
    for first, end in list(runs(is_speech)):
        is_speech[max(0, first - before) : end + after] = True
    return is_speech


def runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where a mask (n,) is true, as half-open ranges."""
    # Padded, so that runs at both ends have two edges.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
