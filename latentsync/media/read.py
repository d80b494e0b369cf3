"""Decoding: frames as a stream, backward or by number, and speech as samples."""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.media.colour import matrix_of
from latentsync.media.probe import need_stream, open_media, require_audio, require_video
from latentsync.media.upright import DisplayMatrix, display_matrix, turn_upright
from latentsync.types import AudioTrack, Frame, FrameImage

logger = logging.getLogger(__name__)

# Without the two flags the conversion of 4:2:0 video darkens every frame by about one grey level (measured).
_EXACT_COLOUR = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_NO_LOUDER = {"rematrix_maxval": "1.0"}  # by default two equal channels add up to 1.41 of one
_COUNTED_FORMATS = {
    "avi",
    "h264",
    "hevc",
    "m4v",
    "mpegvideo",
    "obu",
}  # in these only the order of frames is sure


@dataclass(frozen=True, slots=True)
class _Timeline:
    """When each frame is shown, in ticks and in order.

    `is_counted`: the file has no usable times, these are frame numbers, and reading starts at the beginning.
    """

    times: array[int]
    key_times: array[int]
    is_counted: bool = False

    def ticks_at(self, number: int) -> int | None:
        return None if self.is_counted else self.times[number]


def read_frames(path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Frame]:
    """Decode the frames shown from `start_s` up to, but not at, `end_s`, one at a time.

    Args:
        path: a video or a picture; a picture is one frame.
        start_s: seconds after the file's first frame.
        end_s: the same; None reads to the end.

    Yields:
        Upright frames. `index` is 0 for the first one that is given, `time_s` counts from it.

    Raises:
        MediaError: the file is no video, or no frame of it can be decoded.
    """
    info = require_video(path)
    if info.is_picture:
        start_s, end_s = 0.0, None
    clock = _Clock.of(path)
    to_rgb = _RGBConverter()
    first_s: float | None = None
    index = -1
    for decoded, frame in enumerate(_decode_from(path, clock.ticks(start_s))):
        shown_s = clock.seconds(frame.pts, decoded)
        if end_s is not None and shown_s >= end_s - clock.tolerance_s:
            break
        if shown_s < start_s - clock.tolerance_s:
            continue
        first_s = shown_s if first_s is None else first_s
        index += 1
        yield Frame(to_rgb(frame), index, shown_s - first_s)
    if index < 0:
        raise MediaError(
            f"'{path}' has no frame from {start_s:g} s on: it is {info.duration_s:.2f} s long",
            hint="choose a time inside the video",
        )
    if start_s <= 0 and end_s is None and info.frames is not None and index + 1 < info.frames:
        logger.warning("'%s' states %d frames, %d could be decoded", path, info.frames, index + 1)


def read_frames_backward(
    path: Path, *, start_s: float = 0.0, end_s: float | None = None, chunk_frames: int = 32
) -> Iterator[Frame]:
    """Decode the frames that `read_frames` gives, last first, holding `chunk_frames` of them at a time.

    Every frame keeps the `index` and `time_s` that it has in `read_frames`.

    Raises:
        MediaError: the file is no video.
    """
    if require_video(path).is_picture:
        start_s, end_s = 0.0, None
    clock, timeline = _Clock.of(path), _timeline_of(path)
    shown_s = [clock.seconds(ticks, ticks) for ticks in timeline.times]
    start = bisect_left(shown_s, start_s - clock.tolerance_s)
    end = len(shown_s) if end_s is None else bisect_left(shown_s, end_s - clock.tolerance_s)
    to_rgb = _RGBConverter()
    for chunk_end in range(end, start, -chunk_frames):
        chunk = range(max(start, chunk_end - chunk_frames), chunk_end)
        images = {number: to_rgb(frame) for number, frame in _decode_numbered(path, timeline, chunk)}
        for number in reversed(chunk):
            if number in images:
                yield Frame(images.pop(number), number - start, shown_s[number] - shown_s[start])


def read_window(path: Path, frames: Sequence[int]) -> NDArray[np.uint8]:
    """Decode the frames with these numbers, in the order given: (f h w c) RGB.

    Made for training: one thread, since there is one worker process a core, and the times of the frames are
    gathered once per file.

    Raises:
        MediaError: the file is no video, or one of the frames cannot be decoded.
        ValueError: a number lies outside the video.
    """
    timeline = _timeline_of(path)
    if not frames or min(frames) < 0 or max(frames) >= len(timeline.times):
        raise ValueError(f"frames {list(frames)} of '{path}': it has 0 to {len(timeline.times) - 1}")
    images: dict[int, FrameImage] = {}
    to_rgb = _RGBConverter()
    wanted = sorted(set(frames))
    for run in _runs_between_key_frames(wanted, timeline):
        for number, frame in _decode_numbered(path, timeline, range(run[0], run[-1] + 1), threads=1):
            if number in run:
                images[number] = to_rgb(frame)
    for number in wanted:
        if number not in images:
            raise MediaError(f"'{path}': frame {number} cannot be decoded", hint="copy the file again")
    return np.stack([images[number] for number in frames])  # f h w c


def read_audio(
    path: Path, *, rate_hz: int = 16000, start_s: float = 0.0, end_s: float | None = None
) -> AudioTrack:
    """Decode the sound of `path` to one channel at `rate_hz`.

    Args:
        path: a sound file, or a video with sound.
        rate_hz: samples a second in the answer.
        start_s: seconds after the first sample; below zero puts silence before it.
        end_s: the same; None reads to the end.

    Raises:
        MediaError: there is no audio stream, or no sample in it.
    """
    require_audio(path)
    first = round(start_s * rate_hz)
    end = None if end_s is None else round(end_s * rate_hz)
    pieces: list[NDArray[np.float32]] = []
    position = 0
    with open_media(path) as container:
        for samples in _resample(decode_audio(container, need_stream(path, container, AudioStream)), rate_hz):
            piece = samples[max(0, first - position) : None if end is None else max(0, end - position)]
            position += len(samples)
            if len(piece):
                pieces.append(piece)
            if end is not None and position >= end:
                break
    if not pieces:
        end_text = (
            f"ends at {position / rate_hz:.2f} s, before {start_s:g} s" if position else "has no samples"
        )
        raise MediaError(f"the audio stream of '{path}' {end_text}", hint="give a file with speech in it")
    if first < 0:
        pieces.insert(0, np.zeros(-first, np.float32))
    return AudioTrack(np.nan_to_num(np.concatenate(pieces), posinf=1.0, neginf=-1.0), rate_hz)


def decode_audio(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Decode all sound of `stream`, past damaged packets, to the last frame in the decoder."""
    for packet in read_packets(container, stream):
        for frame in _decode_packet(packet):
            if isinstance(frame, AudioFrame):
                yield frame


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
        frame.pts = None  # the samples are counted: gaps in the times must not become silence
    for piece in resampler.resample(frame):
        yield piece.to_ndarray()[0].astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds from the file's first frame: from the stream's ticks or, where it has none, from counts."""

    tick_s: Fraction
    first_ticks: int
    frame_s: float
    is_counted: bool

    @property
    def tolerance_s(self) -> float:
        return min(float(self.tick_s), self.frame_s / 2)

    @classmethod
    def of(cls, path: Path) -> _Clock:
        with open_media(path) as container:
            stream = need_stream(path, container, VideoStream)
            fps = stream.average_rate or stream.guessed_rate or 25
            is_counted = stream.start_time is None or container.format.name in _COUNTED_FORMATS
            tick_s = stream.time_base or Fraction(1, 1000)
            return cls(tick_s, stream.start_time or 0, float(1 / fps), is_counted)

    def seconds(self, ticks: int | None, number: int) -> float:
        if ticks is None or self.is_counted:
            return number * self.frame_s
        return float((ticks - self.first_ticks) * self.tick_s)

    def ticks(self, time_s: float) -> int | None:
        """The ticks to start decoding at; None: at the beginning."""
        if time_s <= 0 or self.is_counted:
            return None
        return self.first_ticks + int(time_s / self.tick_s)


class _RGBConverter:
    """Turns decoded frames into upright RGB pictures, all of the size of the first one."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._stored_size: tuple[int, int] | None = None
        self._rotation: int | None = None
        self._matrix: DisplayMatrix | None = None

    def __call__(self, frame: VideoFrame) -> FrameImage:
        self._stored_size = self._stored_size or (frame.width, frame.height)
        width, height = self._stored_size
        matrix = matrix_of(frame.colorspace)
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", src_colorspace=matrix, interpolation=_EXACT_COLOUR
        )
        stored_u8 = np.asarray(rgb.to_ndarray(), np.uint8)  # h w c
        if self._rotation != frame.rotation:  # side data keeps its frame alive, so it is not read every time
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        return stored_u8 if self._matrix is None else turn_upright(stored_u8, self._matrix)


def read_packets(container: InputContainer, stream: Stream) -> Iterator[Packet[Stream]]:
    """All packets of a stream; a file that breaks off in the middle just ends."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        logger.warning("'%s' cannot be read further: %s", container.name, error)
        yield Packet()


def _decode_packet(packet: Packet[Stream]) -> Sequence[object]:
    try:
        return packet.decode()
    except av.FFmpegError as error:
        logger.warning("a damaged packet at %s is left out: %s", packet.pts, error)
        return []


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in read_packets(container, stream):
        for frame in _decode_packet(packet):
            if isinstance(frame, VideoFrame):
                yield frame


def _decode_from(path: Path, ticks: int | None, *, threads: int = 0) -> Iterator[VideoFrame]:
    """Decode from the last key frame that lets the frame at `ticks` be decoded; None: from the beginning."""
    back = 0
    while True:
        with open_media(path) as container:
            stream = need_stream(path, container, VideoStream)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            is_from_start = ticks is None or ticks - back <= (stream.start_time or 0)
            if ticks is not None and not is_from_start:
                is_from_start = not _seek(container, stream, ticks - back)
            frames = _decode(container, stream)
            first = next(frames, None)
            # Pictures between an open group's key frame and its predecessors need an earlier key frame.
            if is_from_start or (first is not None and first.pts is not None and first.pts <= (ticks or 0)):
                if first is not None:
                    yield first
                yield from frames
                return
            back = max(2 * back, int(1 / (stream.time_base or Fraction(1, 1000))))


def _seek(container: InputContainer, stream: VideoStream, ticks: int) -> bool:
    try:
        container.seek(ticks, stream=stream)
    except av.FFmpegError:
        return False
    return True


def _decode_numbered(
    path: Path, timeline: _Timeline, numbers: range, *, threads: int = 0
) -> Iterator[tuple[int, VideoFrame]]:
    for decoded, frame in enumerate(_decode_from(path, timeline.ticks_at(numbers.start), threads=threads)):
        ticks = decoded if timeline.is_counted else frame.pts
        if ticks is None:
            continue
        number = bisect_left(timeline.times, ticks)
        if number >= numbers.stop:
            return
        if number >= numbers.start and timeline.times[number] == ticks:
            yield number, frame


def _runs_between_key_frames(numbers: Sequence[int], timeline: _Timeline) -> Iterator[list[int]]:
    """Split sorted frame numbers where jumping to a key frame is cheaper than decoding on."""
    run = [numbers[0]]
    for number in numbers[1:]:
        keys_passed = bisect_left(timeline.key_times, timeline.times[number] + 1) - bisect_left(
            timeline.key_times, timeline.times[run[-1]] + 1
        )
        if keys_passed:
            yield run
            run = []
        run.append(number)
    yield run


def _timeline_of(path: Path) -> _Timeline:
    open_media(path).close()  # says what is wrong with the file, if anything
    state = path.stat()
    return _gather_timeline(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=512)
def _gather_timeline(path: Path, mtime_ns: int, size_bytes: int) -> _Timeline:
    with open_media(path) as container:
        stream = need_stream(path, container, VideoStream)
        packets = [one for one in read_packets(container, stream) if one.size and not one.is_discard]
        times = [packet.pts for packet in packets if packet.pts is not None]
        keys = sorted(packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None)
        is_timed = not _Clock.of(path).is_counted and len(set(times)) == len(packets)
        # VP8 stores pictures that are never shown as packets of their own.
        if is_timed and stream.codec_context.name != "vp8":
            return _Timeline(array("q", sorted(times)), array("q", keys))
    decoded = [frame.pts for frame in _decode_from(path, None)]
    if is_timed:
        times = [ticks for ticks in decoded if ticks is not None]
        return _Timeline(array("q", sorted(times)), array("q", keys))
    return _Timeline(array("q", range(len(decoded))), array("q", [0]), is_counted=True)
