"""The sound of a written video: packets copied as they are where the container takes them, else encoded."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from latentsync.media.probe import need_stream, open_media, require_audio
from latentsync.media.read import decode_audio, read_packets

AAC_BITS_PER_S = 192_000
_AAC_BITS_PER_SAMPLE = 6  # the format's limit: 6144 bits in a block of 1024 samples
_AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_COMPRESSED = {"aac", "mp3", "ac3", "eac3", "alac"}
_PLAIN = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
_COPIED = {
    "mp4": _COMPRESSED | {"opus", "flac"},
    "mov": _COMPRESSED | _PLAIN,
    "matroska": _COMPRESSED | _PLAIN | {"opus", "flac", "vorbis", "pcm_u8"},
}
_MP3_LOWEST_HZ_IN_MP4 = 16000  # ISO 14496-3 names no slower one


class SpeechTrack:
    """Feeds the speech into an output, in step with its pictures, for at most `duration_s`."""

    def __init__(self, target: OutputContainer, path: Path, *, duration_s: float | None) -> None:
        info = require_audio(path)
        self._target = target
        self._source = open_media(path)
        stream = need_stream(path, self._source, AudioStream)
        if is_copied(target.format.name, info.codec, info.rate_hz):
            copy = target.add_stream_from_template(stream)
            self._packets = _copy(self._source, stream, copy, duration_s)
        else:
            encoder = _add_encoder(target, info.rate_hz, info.channels)
            self._packets = _encode(decode_audio(self._source, stream), encoder, duration_s)
        self._next: Packet[Stream] | None = None

    def mux_until(self, time_s: float | None) -> None:
        """Write the packets that are heard before `time_s`; None: all that are left."""
        while True:
            packet = self._next or next(self._packets, None)
            self._next = packet
            if packet is None:
                return
            if time_s is not None and float((packet.dts or 0) * packet.time_base) >= time_s:
                return
            self._target.mux(packet)
            self._next = None

    def close(self) -> None:
        """Close the speech file."""
        self._source.close()


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
    is_cut = duration_s is not None and stream.duration is not None and stream.duration * tick_s > duration_s
    for packet in read_packets(source, stream):
        if packet.dts is None or not packet.size:
            continue
        packet.pts = (packet.dts if packet.pts is None else packet.pts) - first_ticks
        packet.dts -= first_ticks
        end_s = float((packet.pts + (packet.duration or 0)) * tick_s)
        if is_cut and duration_s is not None and end_s > duration_s + float(tick_s):
            return
        packet.stream = copy
        yield packet


def _encode(
    frames: Iterator[AudioFrame], encoder: AudioStream, duration_s: float | None
) -> Iterator[Packet[Stream]]:
    context = encoder.codec_context
    samples = 0
    limit = None if duration_s is None else round(duration_s * context.sample_rate)
    for frame in _converted(frames, encoder):
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


def _shortened(frame: AudioFrame, samples: int) -> AudioFrame:
    values = samples * frame.layout.nb_channels
    kept = AudioFrame.from_ndarray(frame.to_ndarray()[:, :values].copy(), "flt", frame.layout.name)
    kept.sample_rate = frame.sample_rate
    return kept
