"""The sound of a result: the speech of several people, and the original sound under it, mixed or lowered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from latentsync.errors import UsageError
from latentsync.media.container import media_url, need_stream, open_media
from latentsync.media.sound import decode_audio

MIX_HZ, CHANNELS = 48_000, 2
MIX_DB, DUCK_DB = -12.0, -15.0  # of the original sound; ours, by ear on speech over music
SPEECH_DB = -45.0  # louder blocks of the speech, of full scale, lower the original
ATTACK_S, RELEASE_S = 0.05, 0.4
HOP = MIX_HZ // 50
_BIT_RATE = 192_000
Block = NDArray[np.float32]  # (n 2), -1..1


@dataclass(frozen=True, slots=True)
class KeepAudio:
    """What becomes of the original sound. `level_db` is its level in a mix, or while it is lowered."""

    rule: Literal["replace", "mix", "duck"] = "replace"
    level_db: float = 0.0


def parse_keep_audio(text: str) -> KeepAudio:
    """Read what `--keep-audio` takes: replace, mix, mix:-6 or duck.

    Raises:
        UsageError: it is none of these.

    >>> parse_keep_audio("mix:-6"), parse_keep_audio("duck")
    (KeepAudio(rule='mix', level_db=-6.0), KeepAudio(rule='duck', level_db=-15.0))
    """
    word = text.strip().lower()
    if word == "replace":
        return KeepAudio()
    if word == "duck":
        return KeepAudio("duck", DUCK_DB)
    if match := re.fullmatch(r"mix(?::([+-]?\d{1,2}(?:\.\d+)?)(?:db)?)?", word):
        return KeepAudio("mix", float(match[1]) if match[1] else MIX_DB)
    raise UsageError(
        f"--keep-audio '{text}': is not a way to keep sound",
        hint="use replace, mix, a level such as mix:-6, or duck",
    )


def mix_sound(
    speech: Path | Sequence[tuple[Path, float]],
    original: Path | None,
    path: Path,
    *,
    keep: KeepAudio,
    duration_s: float,
    skip_s: float = 0.0,
    original_s: float | None = None,
    speech_track: int | None = None,
) -> None:
    """Write `speech` with the sound of `original` under it as AAC, 48 kHz stereo, to `path`.

    Args:
        speech: one file, or several with the seconds at which each begins.
        original: None: the speech alone.
        duration_s: length of the result.
        skip_s: of the original, left out at its start; below zero: silence before it.
        original_s: how much of the original is used; None: all. It is not repeated.
        speech_track: which audio stream of `speech`.

    Raises:
        MediaError: one of them cannot be decoded.
    """
    left = round(duration_s * MIX_HZ)
    files = [(speech, 0.0)] if isinstance(speech, Path) else speech
    voices = [
        _seconds_of(file, speech_track, skip=-round(from_s * MIX_HZ), most=None) for file, from_s in files
    ]
    most = None if original_s is None else round(original_s * MIX_HZ)
    under = (
        iter(()) if original is None else _seconds_of(original, None, skip=round(skip_s * MIX_HZ), most=most)
    )
    lowering = _Lowering(keep.level_db)
    with av.open(media_url(path), "w", format="mp4") as target:
        encoder: AudioStream = target.add_stream("aac", rate=MIX_HZ)
        encoder.codec_context.layout = "stereo"
        encoder.bit_rate = _BIT_RATE
        position = 0
        while left > 0:
            voice: Block = np.sum([_next_second(blocks) for blocks in voices], axis=0)
            background = _next_second(under)
            gain = lowering.gain(voice) if keep.rule == "duck" else 10 ** (keep.level_db / 20)
            mixed = np.clip(voice + background * gain, -1, 1).astype(np.float32)[:left]
            frame = AudioFrame.from_ndarray(mixed.reshape(1, -1), format="flt", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = MIX_HZ, position, Fraction(1, MIX_HZ)
            for packet in encoder.encode(frame):
                target.mux(packet)
            position, left = position + len(mixed), left - len(mixed)
        for packet in encoder.encode(None):
            target.mux(packet)


class _Lowering:
    """The gain of the original while there is speech: down quickly, up slowly."""

    def __init__(self, level_db: float) -> None:
        self._low = 10 ** (level_db / 20)
        self._gain = 1.0

    def gain(self, voice: Block) -> Block:
        """One gain for each sample of the speech: (n 1)."""
        hops = voice.reshape(-1, HOP * CHANNELS)
        power_db = 10 * np.log10(np.mean(np.square(hops, dtype=np.float64), axis=1) + 1e-12)
        ends: list[float] = []
        for is_loud in power_db > SPEECH_DB:
            goal, time_s = (self._low, ATTACK_S) if is_loud else (1.0, RELEASE_S)
            before = ends[-1] if ends else self._gain
            ends.append(goal + (before - goal) * float(np.exp(-HOP / MIX_HZ / time_s)))
        points = np.arange(len(ends) + 1) * HOP
        gains = np.interp(np.arange(len(voice)), points, [self._gain, *ends])
        self._gain = ends[-1]
        return gains[:, None].astype(np.float32)


def _seconds_of(path: Path, track: int | None, *, skip: int, most: int | None) -> Iterator[Block]:
    """The sound of a file in blocks of one second, from sample `skip` on."""
    held = np.zeros((max(0, -skip), CHANNELS), np.float32)
    skip, taken = max(0, skip), 0
    for block in _decoded(path, track):
        skipped = min(skip, len(block))
        skip, block = skip - skipped, block[skipped:]
        block = block[: None if most is None else max(0, most - taken)]
        taken += len(block)
        held = np.concatenate([held, block])
        while len(held) >= MIX_HZ:
            yield held[:MIX_HZ]
            held = held[MIX_HZ:]
        if most is not None and taken >= most:
            break
    if len(held):
        yield held


def _decoded(path: Path, track: int | None) -> Iterator[Block]:
    with open_media(path) as container:
        resampler: AudioResampler | None = None
        source = None
        for frame in decode_audio(container, need_stream(path, container, AudioStream, track)):
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or source != found:
                # One channel stays one: FFmpeg would take 3 dB from it to make two.
                layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                resampler, source = AudioResampler("flt", layout, MIX_HZ), found
            frame.pts = None
            for piece in resampler.resample(frame):
                yield _stereo(piece)
        for piece in resampler.resample(None) if resampler else ():
            yield _stereo(piece)


def _stereo(piece: AudioFrame) -> Block:
    values = piece.to_ndarray().reshape(-1, piece.layout.nb_channels)
    finite = np.clip(np.nan_to_num(values, posinf=0, neginf=0), -1, 1).astype(np.float32)
    return finite if finite.shape[1] == CHANNELS else np.repeat(finite, CHANNELS, axis=1)


def _next_second(blocks: Iterator[Block]) -> Block:
    """The next second; silence after the end."""
    block = next(blocks, np.zeros((0, CHANNELS), np.float32))
    padded: Block = np.pad(block, ((0, MIX_HZ - len(block)), (0, 0)))
    return padded
