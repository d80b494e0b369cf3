"""Decoding video: frames as a stream, backward or by number, and what there is, counted."""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.media.container import alpha_stream, decoder_of, need_stream, open_media, reading
from latentsync.media.pixels import (
    RGBConverter,
    deinterlaced,
    display_matrix,
    has_alpha,
    over_background,
    turn_upright,
)
from latentsync.media.planes import PictureConverter
from latentsync.media.probe import PICTURE_FPS, VideoInfo, are_uneven, require_video, stamp_of
from latentsync.types import Frame, FrameImage

logger = logging.getLogger(__name__)

MOST_FPS = 1000
# In these only the order of frames is sure.
_COUNTED_FORMATS = {"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"}
_RESTART_S = 0.5  # times that go back by more begin anew, as in joined recordings
_LONGEST_STEP_S = 600.0  # so do times that step forward by more, as those of sound do
_LONGEST_GUESS_S = 0.1  # for a frame whose time is not known: a stated rate may count a step that is not true
_LAST_FRAME_S = 10.0  # the longest time that a file may state for its last frame


@dataclass(frozen=True, slots=True)
class _Timeline:
    """When each frame is shown, in order, found by reading all packets.

    times_s     from the first frame on
    ticks       the same on the file's clock; empty where the file has no usable times: then frames are
                counted and reading starts at the beginning
    key_ticks   of the key frames
    last_s      how long the last frame is shown, as stated; 0 where that is not known
    """

    times_s: array[float]
    ticks: array[int]
    key_ticks: array[int]
    last_s: float

    @property
    def is_counted(self) -> bool:
        return not self.ticks

    def ticks_at(self, number: int) -> int | None:
        return None if self.is_counted else self.ticks[number]


def measure_video(path: Path, *, track: int | None = None) -> VideoInfo:
    """Tell about a video, its frames, length and rate counted: what a file states may be missing or wrong.

    Reads the whole file, without decoding it where its times are in order.

    Raises:
        MediaError: as `require_video`, or the file holds more frames a second than are read.
    """
    info = require_video(path, track=track)
    if info.is_picture:
        return info
    timeline = _timeline_of(path, track)
    frames = len(timeline.times_s)
    if frames == 0:
        raise MediaError(f"'{path}' has no frame", hint="copy the file again, or give another video")
    steps_s = [later - earlier for earlier, later in pairwise(timeline.times_s)]
    fps = _counted_fps(info.fps, timeline.times_s)
    if fps > MOST_FPS:
        raise MediaError(
            f"'{path}' has {float(fps):.0f} frames a second",
            hint=f"up to {MOST_FPS} are supported: export the video again at its true rate",
        )
    width, height = _largest_size(path, track) or (0, 0)
    if width:
        width, height = (height, width) if info.rotation % 180 else (width, height)
    return replace(
        info,
        width=width or info.width,
        height=height or info.height,
        fps=fps,
        frames=frames,
        duration_s=timeline.times_s[-1] + (timeline.last_s or float(1 / fps)),
        is_variable=frames > 2
        and are_uneven(timeline.ticks or [round(1e4 * at_s) for at_s in timeline.times_s]),
        longest_frame_s=max([*steps_s, timeline.last_s]),
    )


def _counted_fps(stated: Fraction, times_s: Sequence[float]) -> Fraction:
    """The stated rate if the times agree with it, else theirs, rounded to a usual one that is near."""
    if len(times_s) < 2:
        return PICTURE_FPS  # one frame has no rate, whatever is stated
    if times_s[-1] <= 0:
        return stated
    counted = (len(times_s) - 1) / times_s[-1]
    if abs(float(stated) / counted - 1) < 0.02:
        return stated
    for usual in (Fraction(round(counted)), Fraction(round(counted * 1.001) * 1000, 1001)):
        if usual and abs(float(usual) / counted - 1) < 0.005:
            return usual
    return Fraction(counted).limit_denominator(1001)


def read_frames(
    path: Path,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: int | None = None,
    keeps_planes: bool = False,
) -> Iterator[Frame]:
    """Decode the frames shown from `start_s` up to, but not at, `end_s`, one at a time.

    Args:
        path: a video or a picture; a picture is one frame.
        start_s: seconds after the file's first frame.
        end_s: the same; None reads to the end.
        track: which of several video streams, 0 first; None: the one that a player would show.
        keeps_planes: pictures stay as they are decoded where that can be; see `media.planes`.

    Yields:
        Upright frames. `index` is 0 for the first one that is given, `time_s` counts from it.

    Raises:
        MediaError: the file is no video, or no frame of it can be decoded.
    """
    info = require_video(path, track=track)
    if info.is_picture:
        yield Frame(_still(path, track, *stamp_of(path)), 0, 0.0)
        return
    clock = _Clock.of(path, track)
    to_picture = PictureConverter(_largest_size(path, track), keeps_planes=keeps_planes)
    is_from_start = start_s <= 0 or _timeline_of(path, track).is_counted
    first_s: float | None = None
    index = -1
    with reading(path):
        for frame in _decode_from(path, None if is_from_start else clock.ticks(start_s), track=track):
            shown_s = clock.next_s(frame.pts)
            if end_s is not None and shown_s >= end_s - clock.tolerance_s:
                break
            if shown_s < start_s - clock.tolerance_s:
                continue
            first_s = shown_s if first_s is None else first_s
            index += 1
            yield Frame(to_picture(frame), index, shown_s - first_s)
    if index < 0:
        raise MediaError(
            f"'{path}' has no frame at or after {start_s:g} s: it is {info.duration_s:.2f} s long",
            hint="choose a time inside the video",
        )
    if start_s <= 0 and end_s is None and info.frames is not None and index + 1 < info.frames:
        stated = min(
            info.frames, len(_timeline_of(path, track).times_s)
        )  # a cut leaves out some that are stored
        if index + 1 < stated:
            logger.warning("'%s' has %d frames, %d could be decoded", path, stated, index + 1)


def read_frames_backward(
    path: Path,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    chunk_frames: int = 32,
    track: int | None = None,
    keeps_planes: bool = False,
) -> Iterator[Frame]:
    """Decode the frames that `read_frames` gives, last first, holding `chunk_frames` of them at a time.

    Every frame keeps the `index` and `time_s` that it has in `read_frames`.

    Raises:
        MediaError: the file is no video.
    """
    if require_video(path, track=track).is_picture:
        yield from read_frames(path, track=track)
        return
    timeline = _timeline_of(path, track)
    times_s, tolerance_s = timeline.times_s, _Clock.of(path, track).tolerance_s
    start = bisect_left(times_s, start_s - tolerance_s)
    end = len(times_s) if end_s is None else bisect_left(times_s, end_s - tolerance_s)
    to_picture = PictureConverter(_largest_size(path, track), keeps_planes=keeps_planes)
    with reading(path):
        for chunk_end in range(end, start, -chunk_frames):
            chunk = range(max(start, chunk_end - chunk_frames), chunk_end)
            decoded = _decode_numbered(path, timeline, chunk, track=track)
            images = {number: to_picture(frame) for number, frame in decoded}
            for number in reversed(chunk):
                if number in images:
                    yield Frame(images.pop(number), number - start, times_s[number] - times_s[start])


def read_window(path: Path, frames: Sequence[int]) -> NDArray[np.uint8]:
    """Decode the frames with these numbers, in the order given: (f h w c) RGB.

    Made for training: one thread, since there is one worker process a core, and the times of the frames are
    gathered once per file.

    Raises:
        MediaError: the file is no video, or one of the frames cannot be decoded.
        ValueError: a number lies outside the video.
    """
    timeline = _timeline_of(path, None)
    if not frames or min(frames) < 0 or max(frames) >= len(timeline.times_s):
        raise ValueError(f"frames {list(frames)} of '{path}': it has 0 to {len(timeline.times_s) - 1}")
    images: dict[int, FrameImage] = {}
    to_rgb = RGBConverter()
    wanted = sorted(set(frames))
    with reading(path):
        for run in _runs_between_key_frames(wanted, timeline):
            for number, frame in _decode_numbered(path, timeline, range(run[0], run[-1] + 1), threads=1):
                if number in run:
                    images[number] = to_rgb(frame)
    for number in wanted:
        if number not in images:
            raise MediaError(f"'{path}': frame {number} cannot be decoded", hint="copy the file again")
    return np.stack([images[number] for number in frames])  # f h w c


class _Clock:
    """Seconds from the file's first frame: from the stream's ticks or, where it has none, from counts.

    Frames are given to it in the order in which they are shown, forward; both directions of reading use it.
    """

    def __init__(self, tick_s: Fraction, first_ticks: int, frame_s: float, *, is_counted: bool) -> None:
        self.tick_s = tick_s
        self.first_ticks = first_ticks
        self.frame_s = frame_s
        self.is_counted = is_counted
        self._number = -1
        self._last_s: float | None = None
        self._step_s = min(frame_s, _LONGEST_GUESS_S)  # the last one that can be true
        self._shift_s = 0.0

    @property
    def tolerance_s(self) -> float:
        return min(float(self.tick_s), self.frame_s / 2)

    @classmethod
    def of(cls, path: Path, track: int | None) -> _Clock:
        with open_media(path) as container:
            stream = need_stream(path, container, VideoStream, track)
            fps = stream.average_rate or stream.guessed_rate or 25
            is_counted = stream.start_time is None or container.format.name in _COUNTED_FORMATS
            tick_s = stream.time_base or Fraction(1, 1000)
            return cls(tick_s, stream.start_time or 0, float(1 / fps), is_counted=is_counted)

    def next_s(self, ticks: int | None) -> float:
        """When the next frame is shown."""
        self._number += 1
        if ticks is None or self.is_counted:
            return self._number * self.frame_s
        shown_s = float((ticks - self.first_ticks) * self.tick_s) + self._shift_s
        if self._last_s is not None and not -_RESTART_S <= shown_s - self._last_s <= _LONGEST_STEP_S:
            self._shift_s += self._last_s + self._step_s - shown_s
            shown_s = self._last_s + self._step_s
        elif self._last_s is not None and shown_s <= self._last_s:
            shown_s = self._last_s + self.tolerance_s  # two frames of one time: both are kept, in order
        elif self._last_s is not None:
            self._step_s = shown_s - self._last_s
        self._last_s = shown_s
        return shown_s

    def ticks(self, time_s: float) -> int | None:
        """The ticks to start decoding at; None: at the beginning."""
        if time_s <= 0 or self.is_counted:
            return None
        return self.first_ticks + int(time_s / self.tick_s)


def read_packets(container: InputContainer, stream: Stream) -> Iterator[Packet[Stream]]:
    """All packets of a stream; a file that breaks off in the middle just ends."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except (
            IndexError
        ):  # a packet of a stream that began late, unknown to PyAV: reading continues after it
            continue
        except av.FFmpegError as error:
            logger.warning("'%s' cannot be read further: %s", container.name, error)
            yield Packet()
            return


def decode_packets(container: InputContainer, stream: Stream, *, threads: int = 0) -> Iterator[object]:
    """The frames of a stream; damaged packets are left out and counted, so that the rest can be read."""
    decode = decoder_of(stream, threads=threads)
    damaged, first_s = 0, 0.0
    try:
        for packet in read_packets(container, stream):
            try:
                yield from decode(packet)
            except av.FFmpegError as error:
                first_s = float((packet.pts or 0) * (packet.time_base or 0)) if not damaged else first_s
                damaged += 1
                logger.debug("packet at %s: %s", packet.pts, error)
    finally:
        if damaged:
            name = container.name.removeprefix("file:")
            logger.warning("'%s' is damaged: %d packets from %.2f s on are skipped", name, damaged, first_s)


def _decode(container: InputContainer, stream: VideoStream, *, threads: int = 0) -> Iterator[VideoFrame]:
    for frame in decode_packets(container, stream, threads=threads):
        if isinstance(frame, VideoFrame):
            yield frame


def _decode_from(
    path: Path, ticks: int | None, *, threads: int = 0, track: int | None = None
) -> Iterator[VideoFrame]:
    """Decode from the last key frame that lets the frame at `ticks` be decoded; None: from the beginning."""
    back = 0
    while True:
        with open_media(path) as container:
            stream = need_stream(path, container, VideoStream, track)
            is_from_start = ticks is None or ticks - back <= (stream.start_time or 0)
            if ticks is not None and not is_from_start:
                is_from_start = not _seek(container, stream, ticks - back)
            frames = deinterlaced(_decode(container, stream, threads=threads))
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
    path: Path, timeline: _Timeline, numbers: range, *, threads: int = 0, track: int | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    decoded_frames = _decode_from(path, timeline.ticks_at(numbers.start), threads=threads, track=track)
    for decoded, frame in enumerate(decoded_frames):
        number = decoded
        if not timeline.is_counted:
            if frame.pts is None:
                continue
            number = bisect_left(timeline.ticks, frame.pts)
        if number >= numbers.stop:
            return
        if number >= numbers.start and (timeline.is_counted or timeline.ticks[number] == frame.pts):
            yield number, frame


def _runs_between_key_frames(numbers: Sequence[int], timeline: _Timeline) -> Iterator[list[int]]:
    """Split sorted frame numbers where jumping to a key frame is cheaper than decoding on."""
    run = [numbers[0]]
    for number in numbers[1:]:
        if not timeline.is_counted:
            keys_passed = bisect_left(timeline.key_ticks, timeline.ticks[number] + 1) - bisect_left(
                timeline.key_ticks, timeline.ticks[run[-1]] + 1
            )
            if keys_passed:
                yield run
                run = []
        run.append(number)
    yield run


@lru_cache(maxsize=1)  # every pass over a picture shows the same one
def _still(path: Path, track: int | None, mtime_ns: int, size_bytes: int) -> FrameImage:
    """The picture in a file, upright, with white behind it."""
    info = require_video(path, track=track)
    is_beside = info.is_transparent and not has_alpha(info.pix_fmt)
    with reading(path):
        for frame in _decode_from(path, None, track=track):
            rgb_u8 = RGBConverter()(frame)
            alpha_u8 = _alpha_of(path) if is_beside else None
            return rgb_u8 if alpha_u8 is None else over_background(rgb_u8, alpha_u8)
    raise MediaError(f"'{path}' has no frame", hint="copy the file again, or give another picture")


def _alpha_of(path: Path) -> NDArray[np.uint8] | None:
    """The opacity (h w) of a picture that keeps it in a stream of its own."""
    with open_media(path) as container:
        stream = alpha_stream(container)
        for frame in _decode(container, stream, threads=1) if stream is not None else ():
            alpha_u8 = np.asarray(frame.reformat(format="gray").to_ndarray(), np.uint8)  # h w
            matrix = display_matrix(frame)
            return alpha_u8 if matrix is None else turn_upright(alpha_u8, matrix)
    return None


def _timeline_of(path: Path, track: int | None) -> _Timeline:
    with open_media(path):  # says what is wrong with the file, if anything
        state = path.stat()
    return _gather_timeline(path, track, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=512)
def _gather_timeline(path: Path, track: int | None, mtime_ns: int, size_bytes: int) -> _Timeline:
    clock = _Clock.of(path, track)
    ticks, keys = array("q"), array("q")
    packets, last = 0, (0, 0)
    with open_media(path) as container:
        stream = need_stream(path, container, VideoStream, track)
        for packet in read_packets(container, stream):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packet.pts is not None:
                ticks.append(packet.pts)
                last = max(last, (packet.pts, packet.duration or 0))
                if packet.is_keyframe:
                    keys.append(packet.pts)
        # VP8 stores pictures that are never shown as packets of their own.
        has_hidden = stream.codec_context.name == "vp8"
    is_timed = not clock.is_counted and len(set(ticks)) == packets
    step_s = max((float((b - a) * clock.tick_s) for a, b in pairwise(sorted(ticks))), default=0.0)
    if is_timed and step_s > _LONGEST_STEP_S:
        logger.warning("the times of '%s' leave out %.0f s: they are taken to begin anew", path, step_s)
        is_timed = False
    last_s = min(float(last[1] * clock.tick_s), _LAST_FRAME_S)
    if is_timed and not has_hidden:
        return _from_ticks(clock, sorted(ticks), sorted(keys), last_s)
    decoded = [frame.pts for frame in _decode_from(path, None, track=track)]
    if is_timed and None not in decoded:
        return _from_ticks(clock, sorted(pts for pts in decoded if pts is not None), sorted(keys), last_s)
    times_s = array("d", (clock.next_s(pts) for pts in decoded))
    return _Timeline(times_s, array("q"), array("q"), last_s=0.0)


def _from_ticks(clock: _Clock, ticks: list[int], keys: list[int], last_s: float) -> _Timeline:
    times_s = array("d", (float((one - clock.first_ticks) * clock.tick_s) for one in ticks))
    return _Timeline(times_s, array("q", ticks), array("q", keys), last_s)


@lru_cache(maxsize=512)
def _sizes(path: Path, track: int | None, mtime_ns: int, size_bytes: int) -> tuple[int, int] | None:
    with open_media(path) as container:
        stream = need_stream(path, container, VideoStream, track)
        if stream.codec_context.name not in _RESIZING_CODECS:
            return None
        stream.codec_context.skip_frame = "NONKEY"  # sizes change at key frames only
        sizes = {(frame.width, frame.height) for frame in _decode(container, stream)}
    return max(sizes, key=lambda size: size[0] * size[1]) if len(sizes) > 1 else None


def _largest_size(path: Path, track: int | None) -> tuple[int, int] | None:
    """The largest picture of a stream whose size changes, as calls over a network do; None: it does not."""
    state = path.stat()
    return _sizes(path, track, state.st_mtime_ns, state.st_size)


_RESIZING_CODECS = {"vp8", "vp9"}
