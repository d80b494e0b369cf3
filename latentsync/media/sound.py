"""Sound: speech as samples for the networks, and the same speech beside the pictures of a written video.

Both treat gaps, damage and loudness alike, so that the mouth follows the sound that is played with it.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.media.container import PacketSource, choose_stream, need_stream, open_media
from latentsync.media.probe import require_audio
from latentsync.media.read import decode_packets, read_packets
from latentsync.rates import AUDIO_HZ
from latentsync.types import AudioTrack

logger = logging.getLogger(__name__)

LONGEST_S = 12 * 3600.0  # of speech that is read: 2.8 GB at 16 kHz
GAP_S = 0.035  # a step in the times that is no rounding: the smallest packet of speech is 20 ms
LONGEST_GAP_S = 600.0  # a longer step is taken for times that begin anew
RESTART_S = 0.5  # so is a step back by more, as in joined recordings
FULL_SCALE_LIMIT = (
    4.0  # float samples up to 12 dB above full scale are loud; beyond, they are of another range
)
OUT_OF_PHASE = 0.01  # power of the mean of two channels, of their own, below which they cancel out
AAC_BITS_PER_S = 192_000
_AAC_BITS_PER_SAMPLE = 6  # the format's limit: 6144 bits in a block of 1024 samples
_AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_COMPRESSED = {"aac", "mp3", "ac3", "eac3", "alac"}
_PLAIN = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
# Players of .mp4 and .mov take Opus and FLAC in neither: QuickTime, Windows and most editors stay silent.
_COPIED = {
    "mp4": _COMPRESSED,
    "mov": _COMPRESSED | _PLAIN,
    "matroska": _COMPRESSED | _PLAIN | {"opus", "flac", "vorbis", "pcm_u8"},
}
_MP3_LOWEST_HZ_IN_MP4 = 16000  # ISO 14496-3 names no slower one
_NO_LOUDER = {"rematrix_maxval": "1.0"}  # by default two equal channels add up to 1.41 of one
_FLOAT_CODECS = ("pcm_f", "wavpack")
# Without a header of their own: `cat` joins two, and the second may have another rate, or times of its own.
_JOINED_FORMATS = {"aac", "ac3", "eac3", "flac", "mp3", "mpegts", "ogg"}


@dataclass(frozen=True, slots=True)
class _Condition:
    """What must be mended in a stream of sound before anything uses it.

    is_steady  False: packets are missing, where silence goes, times begin anew, or rate or channels change
    gain       brings samples of another range to -1..1; 1 for all others
    is_finite  False: some samples are NaN or infinite and become 0
    """

    is_steady: bool
    gain: float
    is_finite: bool

    @property
    def is_sound(self) -> bool:
        return self.is_steady and self.gain == 1 and self.is_finite


def read_audio(
    path: Path,
    *,
    rate_hz: int = AUDIO_HZ,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: int | None = None,
) -> AudioTrack:
    """Decode the sound of `path` to one channel at `rate_hz`.

    Gaps in its times become silence. Two channels that cancel out are not averaged: the louder one is taken.

    Args:
        path: a sound file, or a video with sound.
        rate_hz: samples a second in the answer.
        start_s: seconds after the first sample; below zero puts silence before it.
        end_s: the same; None reads to the end.
        track: which of several audio streams, 0 first; None: the one that a player would play.

    Raises:
        MediaError: there is no audio stream, no sample in it, or more of it than `LONGEST_S`.
    """
    require_audio(path, track=track)
    condition = _condition_of(path, track)
    if not condition.is_finite:
        logger.warning("'%s' has samples that are NaN or infinite: they become silence", path)
    if condition.gain != 1:
        logger.warning(
            "'%s' has samples up to %.3g where 1 is full scale: they are scaled down",
            path,
            1 / condition.gain,
        )
    first = round(start_s * rate_hz)
    end = None if end_s is None else round(end_s * rate_hz)
    samples, power = _mono(path, track, rate_hz, first, end, channel=None)
    if power[2] < OUT_OF_PHASE * (power[0] + power[1]) / 2:
        louder = int(power[1] > power[0])
        logger.warning("the channels of '%s' cancel out: only channel %d is used", path, louder)
        samples, _ = _mono(path, track, rate_hz, first, end, channel=louder)
    found = np.frombuffer(samples, np.float32)  # no copy: an hour takes 230 MB
    if condition.gain != 1:
        found *= np.float32(condition.gain)
    return AudioTrack(found, rate_hz)


def _mono(
    path: Path, track: int | None, rate_hz: int, first: int, end: int | None, *, channel: int | None
) -> tuple[array[float], NDArray[np.float64]]:
    """Samples `first` to `end` of one channel or the mean of all, and the power of left, right and mean."""
    samples = array("f", bytes(4 * max(0, -first)))
    power = np.zeros(3)
    position = 0
    with open_media(path) as container:
        frames = decode_audio(container, need_stream(path, container, AudioStream, track))
        for piece in _resample(_measured(frames, power, channel), rate_hz):
            if position > LONGEST_S * rate_hz:
                raise MediaError(
                    f"'{path}' has more than {LONGEST_S / 3600:g} hours of audio", hint="cut it first"
                )
            kept = piece[max(0, first - position) : None if end is None else max(0, end - position)]
            position += len(piece)
            samples.frombytes(np.nan_to_num(kept, posinf=0.0, neginf=0.0).tobytes())
            if end is not None and position >= end:
                break
    if len(samples) <= max(0, -first):
        end_text = f"ends at {position / rate_hz:.2f} s" if position else "has no samples"
        raise MediaError(f"the audio stream of '{path}' {end_text}", hint="give a file with speech in it")
    return samples, power


def _measured(
    frames: Iterable[AudioFrame], power: NDArray[np.float64], channel: int | None
) -> Iterator[AudioFrame]:
    """The frames, adding up the power of two channels and of their mean; with `channel`, that one alone."""
    for frame in frames:
        if frame.layout.nb_channels != 2:
            power += 1  # nothing to compare
            yield frame
            continue
        values: NDArray[Any] = frame.to_ndarray()
        left, right = values if frame.format.is_planar else values.reshape(-1, 2).T
        left, right = (np.nan_to_num(side.astype(np.float64), posinf=0, neginf=0) for side in (left, right))
        if frame.format.name.startswith("u8"):
            left, right = left - 128, right - 128
        power += [np.dot(left, left), np.dot(right, right), np.dot(left + right, left + right) / 4]
        if channel is not None:
            one = values[channel : channel + 1] if frame.format.is_planar else values[:, channel::2]
            one_frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(one), frame.format.packed.name, layout="mono"
            )
            one_frame.sample_rate, one_frame.pts = frame.sample_rate, frame.pts
            frame = one_frame
        yield frame


def lead_s(path: Path, *, track: int | None = None) -> float:
    """How long a file shows pictures before its sound begins, in seconds; 0 if they begin together.

    A player is silent for so long. `read_audio` counts from the first sample: it leaves this out.

    Raises:
        MediaError: as `require_audio`.
    """
    with open_media(path) as container:
        sound = need_stream(path, container, AudioStream, track)
        pictures = choose_stream(path, container, VideoStream)
        times = [
            float(stream.start_time * stream.time_base)
            for stream in (pictures, sound)
            if stream is not None and stream.start_time is not None and stream.time_base is not None
        ]
    late_s = times[1] - times[0] if len(times) == 2 else 0.0
    return late_s if GAP_S <= late_s <= LONGEST_GAP_S else 0.0


def decode_audio(
    container: InputContainer, stream: AudioStream, *, lead_s: float = 0.0
) -> Iterator[AudioFrame]:
    """Decode all sound of `stream`, past damaged packets, with silence where its times leave a gap.

    Args:
        lead_s: seconds of silence before the first sample.
    """
    tick_s = stream.time_base or Fraction(1, stream.rate or AUDIO_HZ)
    ahead_s: float | None = None  # when the samples so far end, on the stream's clock
    for frame in decode_packets(container, stream):
        if not isinstance(frame, AudioFrame) or not frame.sample_rate:
            continue
        shown_s = None if frame.pts is None else float(frame.pts * (frame.time_base or tick_s))
        if lead_s and ahead_s is None:
            yield from _silence(frame, lead_s)
        if shown_s is not None and ahead_s is not None:
            if GAP_S <= shown_s - ahead_s <= LONGEST_GAP_S:
                yield from _silence(frame, shown_s - ahead_s)
                ahead_s = shown_s
            elif not -RESTART_S < shown_s - ahead_s <= LONGEST_GAP_S:
                ahead_s = shown_s  # the times begin anew
        ahead_s = (shown_s or 0.0) if ahead_s is None else ahead_s
        ahead_s += frame.samples / frame.sample_rate
        yield frame


def _silence(like: AudioFrame, duration_s: float) -> Iterator[AudioFrame]:
    """Silence of the rate and channels of a frame, a second at a time."""
    left = round(duration_s * like.sample_rate)
    while left > 0:
        samples = min(left, like.sample_rate)
        values = np.zeros((1, samples * like.layout.nb_channels), np.int16)
        frame = AudioFrame.from_ndarray(values, format="s16", layout=like.layout.name)
        frame.sample_rate = like.sample_rate
        left -= samples
        yield frame


def _condition_of(path: Path, track: int | None) -> _Condition:
    state = path.stat()
    return _examine(path, track, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _examine(path: Path, track: int | None, mtime_ns: int, size_bytes: int) -> _Condition:
    """Look for what keeps packets from being copied, and in floating-point sound for samples out of range."""
    is_steady, is_finite, peak = True, True, 0.0
    end_ticks: int | None = None
    kinds: set[tuple[int, str]] = set()
    with open_media(path) as container:
        stream = need_stream(path, container, AudioStream, track)
        gap_ticks = GAP_S / float(stream.time_base or Fraction(1, AUDIO_HZ))
        is_float = stream.codec_context.name.startswith(_FLOAT_CODECS)
        is_decoded = is_float or container.format.name in _JOINED_FORMATS
        for packet in read_packets(container, stream):
            if packet.pts is None:
                is_steady &= not packet.size  # only the end has no time
            else:
                is_steady &= end_ticks is None or abs(packet.pts - end_ticks) < gap_ticks
                end_ticks = packet.pts + packet.duration if packet.duration else None
            with suppress(av.FFmpegError):
                for frame in packet.decode() if is_decoded else ():
                    if not isinstance(frame, AudioFrame):
                        continue
                    kinds.add((frame.sample_rate, frame.layout.name))
                    found_finite, found_peak = _range_of(frame) if is_float else (True, 0.0)
                    is_finite, peak = is_finite and found_finite, max(peak, found_peak)
    is_steady &= len(kinds) < 2
    return _Condition(is_steady, 1 / peak if peak > FULL_SCALE_LIMIT else 1.0, is_finite)


def _range_of(frame: AudioFrame) -> tuple[bool, float]:
    """Whether all samples are finite, and the largest of those that are; integers are within range."""
    values: NDArray[Any] = frame.to_ndarray() if frame.format.bytes in (4, 8) else np.zeros(0)
    if values.dtype.kind != "f" or not values.size:
        return True, 0.0
    finite = np.isfinite(values)
    return bool(finite.all()), float(np.abs(values, where=finite, out=np.zeros_like(values)).max())


def _resample(frames: Iterable[AudioFrame], rate_hz: int) -> Iterator[NDArray[np.float32]]:
    resampler: AudioResampler | None = None
    source: tuple[str, str, int] | None = None
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != source:  # at the start, and where a stream changes its layout half way
            yield from _samples(resampler, None)
            resampler = AudioResampler("fltp", "mono", rate_hz, options=_NO_LOUDER)
            source = found
        yield from _samples(resampler, frame)
    yield from _samples(resampler, None)


def _samples(resampler: AudioResampler | None, frame: AudioFrame | None) -> Iterator[NDArray[np.float32]]:
    if resampler is None:
        return
    if frame is not None:
        frame.pts = None  # the samples are counted: their gaps are silence already
    for piece in resampler.resample(frame):
        yield piece.to_ndarray()[0].astype(np.float32, copy=False)


class SpeechTrack(PacketSource):
    """Feeds the speech into an output, in step with its pictures, for at most `duration_s`.

    Silence comes first where a player of the file would be silent: see `lead_s`.
    """

    def __init__(
        self, target: OutputContainer, path: Path, *, duration_s: float | None, track: int | None = None
    ) -> None:
        info = require_audio(path, track=track)
        condition = _condition_of(path, track)
        super().__init__(target, path)
        source = self._source
        stream = need_stream(path, source, AudioStream, track)
        late_s = lead_s(path, track=track)
        is_whole = condition.is_sound and not late_s
        if is_whole and is_copied(target.format.name, info.codec, info.rate_hz):
            copy = target.add_stream_from_template(stream)
            self._packets = _copy(source, stream, copy, duration_s)
        else:
            encoder = _add_encoder(target, info.rate_hz, info.channels)
            frames = decode_audio(source, stream, lead_s=late_s)
            self._packets = _encode(frames, encoder, duration_s, condition.gain)


def is_copied(container: str, codec: str, rate_hz: int) -> bool:
    """Whether a container takes packets of a codec as they are.

    >>> is_copied("mp4", "aac", 44100), is_copied("mp4", "pcm_s16le", 16000)
    (True, False)
    """
    if codec == "mp3" and container != "matroska" and rate_hz < _MP3_LOWEST_HZ_IN_MP4:
        return False
    return codec in _COPIED[container]


def _add_encoder(target: OutputContainer, rate_hz: int, channels: int) -> AudioStream:
    rate_hz = rate_hz if rate_hz in _AAC_RATES_HZ else 48000
    channels = channels if channels in _AAC_LAYOUTS else 2
    encoder: AudioStream = target.add_stream("aac", rate=rate_hz)
    encoder.codec_context.layout = _AAC_LAYOUTS[channels]
    encoder.bit_rate = min(AAC_BITS_PER_S, _AAC_BITS_PER_SAMPLE * rate_hz * channels)
    return encoder


def _copy(
    source: InputContainer, stream: AudioStream, copy: AudioStream, duration_s: float | None
) -> Iterator[Packet[Stream]]:
    tick_s = stream.time_base or Fraction(1, stream.rate)
    first_ticks = stream.start_time or 0
    for packet in read_packets(source, stream):
        if packet.dts is None or not packet.size:
            continue
        packet.pts = (packet.dts if packet.pts is None else packet.pts) - first_ticks
        packet.dts -= first_ticks
        end_s = float((packet.pts + (packet.duration or 0)) * tick_s)
        if duration_s is not None and end_s > duration_s + float(tick_s):
            return
        packet.stream = copy
        yield packet


def _encode(
    frames: Iterator[AudioFrame], encoder: AudioStream, duration_s: float | None, gain: float
) -> Iterator[Packet[Stream]]:
    context = encoder.codec_context
    samples = 0
    limit = None if duration_s is None else round(duration_s * context.sample_rate)
    for frame in _converted(frames, encoder):
        frame = _bounded(frame, gain)
        if limit is not None and samples + frame.samples > limit:
            frame = _shortened(frame, limit - samples)
        if not frame.samples:
            break
        frame.pts, frame.time_base = samples, Fraction(1, context.sample_rate)
        samples += frame.samples
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _converted(frames: Iterator[AudioFrame], encoder: AudioStream) -> Iterator[AudioFrame]:
    context = encoder.codec_context
    resampler: AudioResampler | None = None
    source: tuple[str, str, int] | None = None
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != source:
            if resampler is not None:
                yield from resampler.resample(None)
            # Packed, since the planes of a frame with eight channels cannot be read safely.
            resampler = AudioResampler("flt", context.layout.name, context.sample_rate)
            source = found
        frame.pts = None
        if resampler is not None:
            yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _bounded(frame: AudioFrame, gain: float) -> AudioFrame:
    """The frame with finite samples near full scale: others hang FFmpeg's AAC encoder, or stop it."""
    values = frame.to_ndarray()
    if gain == 1 and float(np.abs(values).max(initial=0)) <= FULL_SCALE_LIMIT:  # False for NaN
        return frame
    values = np.clip(np.nan_to_num(values * np.float32(gain), posinf=0, neginf=0), -1, 1)
    return _packed(values.astype(np.float32), frame)


def _shortened(frame: AudioFrame, samples: int) -> AudioFrame:
    return _packed(frame.to_ndarray()[:, : samples * frame.layout.nb_channels].copy(), frame)


def _packed(values: NDArray[Any], like: AudioFrame) -> AudioFrame:
    frame = AudioFrame.from_ndarray(values, "flt", like.layout.name)
    frame.sample_rate = like.sample_rate
    return frame
