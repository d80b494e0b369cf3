"""What a video holds beside its picture and main sound, carried into the result as it is.

Title and other tags, chapters, subtitles, further audio tracks. They are played once, from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from latentsync.media.container import PacketSource, choose_stream, open_media, streams_of
from latentsync.media.sound import is_copied

_SUBTITLES = {
    "mp4": {"mov_text"},
    "mov": {"mov_text"},
    "matroska": {"subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"},
}
# What describes the old file itself, not the film.
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
_LONGEST_TAG = 4096  # characters; a longer one is no text about the film
_STREAM_TAGS = ("language", "title", "handler_name")


@dataclass(frozen=True, slots=True)
class Carried:
    """Where streams are carried from: the part of `path` from `start_s` on, for `duration_s` at most."""

    path: Path
    start_s: float
    duration_s: float


class CarriedStreams(PacketSource):
    """Feeds the further streams of a video into an output, in step with its pictures."""

    def __init__(self, target: OutputContainer, carried: Carried) -> None:
        """Add the streams, tags and chapters; before anything is written to `target`."""
        super().__init__(target, carried.path)
        self._carried, source = carried, self._source
        target.metadata.update(
            {
                name: text
                for name, text in source.metadata.items()
                if name.lower() not in _OWN_TAGS and len(text) <= _LONGEST_TAG
            }
        )
        if chapters := list(_chapters(source, carried)):
            target.set_chapters(chapters)
        self._copies: dict[int, Stream] = {}
        for stream in _carried_streams(carried.path, source, target.format.name):
            copy = target.add_stream_from_template(stream)
            copy.metadata.update(
                {tag: stream.metadata[tag] for tag in _STREAM_TAGS if tag in stream.metadata}
            )
            self._copies[stream.index] = copy
        self._packets = self._shifted(source)

    def _shifted(self, source: InputContainer) -> Iterator[Packet[Stream]]:
        if not self._copies:
            return
        origin_s = _origin_s(source) + self._carried.start_s
        streams = [source.streams[index] for index in self._copies]
        for packet in source.demux(streams):
            if packet.dts is None or packet.pts is None or not packet.size:
                continue
            tick_s = Fraction(packet.time_base)
            shift = round(origin_s / tick_s)
            start_s = float((packet.pts - shift) * tick_s)
            if start_s < 0 or start_s >= self._carried.duration_s:
                continue
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._copies[packet.stream.index]
            yield packet


def describe_losses(path: Path, container_format: str) -> Iterator[str]:
    """A line for each kind of stream in `path` that the container of the output does not take."""
    with open_media(path) as source:
        kept = {stream.index for stream in _carried_streams(path, source, container_format)}
        for stream in _further_streams(path, source):
            if stream.index not in kept:
                kind = "subtitles" if isinstance(stream, SubtitleStream) else "a further audio track"
                remedy = "" if container_format == "matroska" else ": name the output .mkv to keep them"
                codec = stream.codec_context.codec.canonical_name
                yield f"{kind} of '{path}' ({codec}) cannot be kept{remedy}"


def _further_streams(path: Path, source: InputContainer) -> Iterator[Any]:
    main = choose_stream(path, source, AudioStream)
    yield from (stream for stream in streams_of(source, AudioStream) if stream is not main)
    for stream in source.streams:
        if isinstance(stream, SubtitleStream) and getattr(stream, "codec_context", None) is not None:
            yield stream


def _carried_streams(path: Path, source: InputContainer, container_format: str) -> Iterator[Any]:
    for stream in _further_streams(path, source):
        codec = stream.codec_context.codec.canonical_name
        if isinstance(stream, SubtitleStream):
            if codec in _SUBTITLES[container_format]:
                yield stream
        elif is_copied(container_format, codec, stream.rate):
            yield stream


def _chapters(source: InputContainer, carried: Carried) -> Iterator[Any]:
    origin_s = _origin_s(source) + carried.start_s
    for chapter in source.chapters():
        tick_s = Fraction(chapter["time_base"] or 1)
        shift = round(origin_s / tick_s)
        last = round(carried.duration_s / tick_s)
        start, end = max(0, chapter["start"] - shift), min(last, chapter["end"] - shift)
        if start < end:
            yield {**chapter, "start": start, "end": end}


def _origin_s(source: InputContainer) -> float:
    """When the first picture is shown, on the file's clock."""
    for stream in source.streams.video:
        if stream.start_time is not None and stream.time_base is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0
