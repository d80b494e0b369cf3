"""First step: opens a source, or drops it, and streams it at 25 frames per second with speech at 16 kHz."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.media.probe import AudioInfo, MediaInfo, VideoInfo, probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.preprocess.step import Clip, Drop, Region, Source
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.recipe.preprocess import Reading
from latentsync.types import Frame

_ROUNDING_TICKS = 0.05  # some files round times to milliseconds: that must not add a frame
_CONTAINER_ROUNDING_S = 0.1


@dataclass
class ReadVideo:
    """Yields a clip for every run of frames without a gap; an unsuitable file is dropped."""

    reading: Reading
    min_s: float
    name: str = "read_video"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        source = clip.source
        info = probe(source.path)
        drop = self._drop(source, info)
        if drop is not None or info.video is None:
            yield drop or Drop("unreadable")
            return
        if source.sound is not None and not source.sound.is_file():
            yield Drop("no_audio", "its file is missing")
            return
        video, region = info.video, _pixels(source.region, info.video)
        size, source_px = self._size(video, region)
        read = read_frames(source.path, start_s=source.start_s, end_s=source.end_s)
        frames = (_resized(_cut(frame, region), size) for frame in read)
        speech = _speech(source, info)
        ticks = at_25_fps(frames, max_gap_s=self.reading.max_gap_s)
        order = count()
        # Within a run without a gap, tick minus position is constant.
        for _, run in groupby(ticks, key=lambda frame: frame.index - next(order)):
            stream = iter(run)
            first = next(stream)
            yield Clip(
                source=clip.source,
                start_frame=first.index,
                speech=speech,
                stream=chain([first], stream),
                source_px=source_px,
            )

    def _drop(self, source: Source, info: MediaInfo) -> Drop | None:
        """Why a file is dropped; None if it is not."""
        video, audio = info.video, info.audio
        if video is None or video.is_picture or video.frames == 1:
            return Drop("no_video", "only sound" if video is None else "a still picture")
        if audio is None and source.sound is None:
            return Drop("no_audio")
        return self._too_much(source, video, audio)

    def _too_much(self, source: Source, video: VideoInfo, audio: AudioInfo | None) -> Drop | None:
        limits = self.reading
        audio_s = 0.0 if audio is None else audio.duration_s
        clip_s = min(source.end_s or math.inf, video.duration_s) - source.start_s
        if video.width * video.height > limits.max_pixels:
            return Drop("too_large", f"{video.width} x {video.height} > {limits.max_pixels} pixels")
        if video.fps > limits.max_fps:
            return Drop("too_fast", f"{float(video.fps):g} fps > {limits.max_fps:g} fps")
        if max(video.duration_s, audio_s) > limits.max_hours * 3600:
            return Drop("too_long", f"{video.duration_s / 3600:.1f} h > {limits.max_hours:g} h")
        if video.duration_s > 0 and clip_s < self.min_s - _CONTAINER_ROUNDING_S:
            return Drop("too_short", f"{max(0.0, clip_s):.2f} s < {self.min_s:g} s")
        return None

    def _size(self, video: VideoInfo, region: tuple[slice, slice]) -> tuple[tuple[int, int], float]:
        """Width and height with square pixels and sides within the limit, and source pixels per new pixel."""
        rows, columns = (part.stop - part.start for part in region)
        width, height = columns * float(video.pixel_aspect), float(rows)
        shrink = max(1.0, max(width, height) / self.reading.max_side_px)
        return (max(1, round(width / shrink)), max(1, round(height / shrink))), shrink


def _speech(source: Source, info: MediaInfo) -> NDArray[np.float32]:
    """The speech of a source (n,), at 16 kHz, from its first frame on."""
    late_s = source.start_s
    if source.sound is None and info.video is not None and info.audio is not None:
        # If the audio begins after the first frame, this puts silence before it.
        late_s += info.video.start_s - info.audio.start_s
    end_s = None if source.end_s is None else late_s + source.end_s - source.start_s
    return read_audio(source.sound or source.path, rate_hz=AUDIO_HZ, start_s=late_s, end_s=end_s).samples


def _pixels(region: Region | None, video: VideoInfo) -> tuple[slice, slice]:
    """The rows and columns of a frame that are looked at."""
    if region is None:
        return slice(0, video.height), slice(0, video.width)
    aspect = float(video.pixel_aspect)
    ends = (
        (region.top, region.height, video.height, 1.0),
        (region.left, region.width, video.width, aspect),
    )
    rows, columns = (
        slice(
            min(max(0, round(first * video.height / square)), size - 1),
            min(max(1, round((first + length) * video.height / square)), size),
        )
        for first, length, size, square in ends
    )
    return rows, columns


def _cut(frame: Frame, region: tuple[slice, slice]) -> Frame:
    return Frame(np.ascontiguousarray(frame.rgb_u8[region]), frame.index, frame.time_s)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    if frame.rgb_u8.shape[1::-1] == size:
        return frame
    smaller = size[0] * size[1] < frame.rgb_u8.shape[0] * frame.rgb_u8.shape[1]
    # Bilinear sampling skips pixels when it shrinks.
    filtering = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(frame.rgb_u8, size, interpolation=filtering), np.uint8)
    return Frame(resized, frame.index, frame.time_s)


def at_25_fps(frames: Iterator[Frame], *, max_gap_s: float) -> Iterator[Frame]:
    """Yield, for every 25th of a second, the frame that is nearest in time.

    Repeats frames of slower videos and skips some of faster ones. Holds two frames at a time.

    Args:
        frames: in the order of their times; one that is not later than its predecessor is skipped.
        max_gap_s: no frame is repeated across longer gaps: their ticks are missing.

    Yields:
        Frames whose `index` is the tick and whose `time_s` is exactly index / 25.
    """
    last: Frame | None = None
    tick, period_s = 0, 1 / VIDEO_FPS
    for frame in frames:
        if last is None:
            last, tick = frame, _first_tick(frame.time_s)
            continue
        step_s = frame.time_s - last.time_s
        if step_s <= 0:
            continue
        is_gap = step_s > max_gap_s
        # A frame is the nearest one up to the middle between it and the next.
        until_s = last.time_s + (period_s if is_gap else step_s / 2)
        period_s = period_s if is_gap else step_s
        end = _first_tick(until_s) if is_gap else math.ceil(until_s * VIDEO_FPS - 1e-6)
        ticks = range(tick, max(tick, end))
        yield from (Frame(last.rgb_u8, shown, shown / VIDEO_FPS) for shown in ticks)
        tick = max(ticks.stop, _first_tick(frame.time_s)) if is_gap else ticks.stop
        last = frame
    if last is not None:
        # Nothing tells how long the last frame is shown: as long as the one before it.
        ticks = range(tick, _first_tick(last.time_s + period_s))
        yield from (Frame(last.rgb_u8, shown, shown / VIDEO_FPS) for shown in ticks)


def _first_tick(time_s: float) -> int:
    """The first tick at or after a time."""
    return math.ceil(time_s * VIDEO_FPS - _ROUNDING_TICKS)
