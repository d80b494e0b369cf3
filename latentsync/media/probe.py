"""What a media file holds: size, frame rate, colour tags and sound, read from its headers and first frame."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import MediaError
from latentsync.media.container import (
    StreamT,
    alpha_stream,
    choose_stream,
    decoder_of,
    describe_doubt,
    no_stream,
    open_media,
)
from latentsync.media.pixels import has_alpha
from latentsync.rates import VIDEO_FPS

PICTURE_FPS = Fraction(VIDEO_FPS)
COLORSPACE_RGB, UNSPECIFIED = 0, 2  # ITU-T H.273, tables 2 to 4
LOWEST_HZ, HIGHEST_HZ = 1000, 768_000  # rates of sound; others are a damaged header
MOST_CHANNELS = 64  # what FFmpeg's resampler takes
_PACKETS_BEFORE_FIRST_FRAME = 500
_LARGEST_PICTURE_BYTES = 1 << 28  # that is searched for its end
_TAIL_BYTES = 16  # some programs add zeros
_PICTURE_BRANDS = {"heic", "heix", "mif1", "avif"}  # a photo, stored as a video of one frame


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The video stream of a file, or a still picture.

    width, height  pixels, upright: after `rotation`
    fps            average frame rate; 25 for a picture
    frames         as the container states it, None where it does not
    rotation       degrees counterclockwise that make the stored frames upright, -180..180
    color_*        code points of ITU-T H.273 (2 = unspecified); color_range 0 unspecified, 1 limited, 2 full
    is_variable    frames are not evenly spaced: use their times, not `fps`
    start_s        when the first frame is shown, on the file's clock
    pixel_aspect   width of a pixel over its height
    longest_frame_s  longest time for which one frame is shown; 0 where nothing was counted
    is_transparent   parts of it may be
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    duration_s: float
    rotation: int
    codec: str
    pix_fmt: str
    color_range: int
    color_primaries: int
    color_trc: int
    colorspace: int
    is_variable: bool
    is_picture: bool
    start_s: float = 0.0
    pixel_aspect: Fraction = Fraction(1)
    longest_frame_s: float = 0.0
    is_transparent: bool = False


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The audio stream of a file. `start_s` is when its first sample is played, on the file's clock."""

    rate_hz: int
    channels: int
    layout: str
    codec: str
    duration_s: float
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What one file holds."""

    path: Path
    container: str
    video: VideoInfo | None
    audio: AudioInfo | None


def probe(path: Path, *, video_track: int | None = None, audio_track: int | None = None) -> MediaInfo:
    """Tell what `path` holds. Reads headers and decodes one frame.

    Durations are what the file states; `media.read.measure_video` counts instead.

    Args:
        video_track: which of several video streams, 0 first; None: the one that a player would show.
        audio_track: the same for sound.

    Raises:
        MediaError: the file is missing, a folder, empty, cut off, or not media.
    """
    with open_media(path) as container:
        video_stream = choose_stream(path, container, VideoStream, video_track)
        audio_stream = choose_stream(path, container, AudioStream, audio_track)
        if video_stream is None and audio_stream is None:
            raise MediaError(
                f"'{path}' has neither a video nor an audio stream that can be decoded",
                hint="give a video, picture or audio file",
            )
        _refuse_cut_off(path, container)
        audio = _audio_info(container, audio_stream) if audio_stream is not None else None
        video = _video_info(path, container, video_stream) if video_stream is not None else None
        return MediaInfo(path, container.format.name, video, audio)


def require_video(path: Path, *, track: int | None = None) -> VideoInfo:
    """Tell about the video stream or picture in `path`.

    Raises:
        MediaError: as `probe`, or there is no video stream.
    """
    return _require_video(path, track, *stamp_of(path))


def stamp_of(path: Path) -> tuple[int, int]:
    """When a file was changed last, in ns, and its size in bytes, for caches; -1 where that is not known."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=64)  # opening alone decodes a still picture: a second for 50 megapixels
def _require_video(path: Path, track: int | None, mtime_ns: int, size_bytes: int) -> VideoInfo:
    with open_media(path) as container:
        stream = choose_stream(path, container, VideoStream, track)
        if stream is None:
            raise no_stream(path, container, VideoStream)
        _refuse_cut_off(path, container)
        return _video_info(path, container, stream)


def require_audio(path: Path, *, track: int | None = None) -> AudioInfo:
    """Tell about the audio stream in `path`.

    Raises:
        MediaError: as `probe`, or there is no audio stream, or its rate or channels cannot be true.
    """
    with open_media(path) as container:
        stream = choose_stream(path, container, AudioStream, track)
        if stream is None:
            raise no_stream(path, container, AudioStream)
        _refuse_cut_off(path, container)
        info = _audio_info(container, stream)
    if not LOWEST_HZ <= info.rate_hz <= HIGHEST_HZ:
        raise MediaError(
            f"the audio of '{path}' claims a rate of {info.rate_hz} Hz",
            hint=f"{LOWEST_HZ} to {HIGHEST_HZ} Hz are supported: export the audio again",
        )
    if not 1 <= info.channels <= MOST_CHANNELS:
        raise MediaError(
            f"the audio of '{path}' claims {info.channels} channels",
            hint=f"up to {MOST_CHANNELS} are supported: export the audio again",
        )
    return info


def describe_doubts(path: Path, kind: type[StreamT]) -> str | None:
    """One line if `path` has several streams of a kind that could be meant, else None."""
    with open_media(path) as container:
        return describe_doubt(path, container, kind)


def is_cut_short(path: Path) -> bool:
    """Whether a JPEG or GIF ends before its end mark. FFmpeg shows such a picture, its lower part grey."""
    content = path.read_bytes() if path.stat().st_size <= _LARGEST_PICTURE_BYTES else b""
    if content.startswith(b"GIF"):
        return b";" not in content[-_TAIL_BYTES:]
    at = 2  # JPEG: segments with their lengths, then the coded picture
    while content.startswith(b"\xff\xd8") and at + 4 <= len(content) and content[at] == 0xFF:
        if content[at + 1] == 0xDA:
            return content.find(b"\xff\xd9", at) < 0
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def _refuse_cut_off(path: Path, container: InputContainer) -> None:
    size_bytes = path.stat().st_size
    if not container.format.name.startswith("mov"):
        return
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries) and entries[-1].pos + entries[-1].size > size_bytes:
            needed_bytes = max(entry.pos + entry.size for entry in entries)
            raise MediaError(
                f"'{path}' is cut off: it has {size_bytes} of at least {needed_bytes} bytes",
                hint="copy or download the file again",
            )


def _video_info(path: Path, container: InputContainer, stream: VideoStream) -> VideoInfo:
    context = stream.codec_context
    fps = stream.average_rate or stream.guessed_rate or stream.base_rate or PICTURE_FPS
    is_picture = _is_picture(container, stream)
    frame = _first_frame(path, container, stream)
    is_turned = frame.rotation % 180 != 0
    width, height = (frame.height, frame.width) if is_turned else (frame.width, frame.height)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return VideoInfo(
        width=width,
        height=height,
        fps=PICTURE_FPS if is_picture else Fraction(fps),
        frames=1 if is_picture else stream.frames or None,
        duration_s=0.0 if is_picture else _duration_s(container, stream),
        rotation=round(frame.rotation),
        codec=context.codec.canonical_name,
        pix_fmt=frame.format.name,
        color_range=int(context.color_range or frame.color_range),
        color_primaries=_tag(context.color_primaries, frame.color_primaries),
        color_trc=_tag(context.color_trc, frame.color_trc),
        colorspace=_tag(context.colorspace, frame.colorspace),
        is_variable=not is_picture and _is_variable(stream),
        is_picture=is_picture,
        start_s=_start_s(stream),
        pixel_aspect=1 / aspect if is_turned else aspect,
        is_transparent=has_alpha(frame.format.name) or alpha_stream(container) is not None,
    )


def _audio_info(container: InputContainer, stream: AudioStream) -> AudioInfo:
    context = stream.codec_context
    return AudioInfo(
        rate_hz=context.sample_rate,
        channels=context.layout.nb_channels,
        layout=context.layout.name,
        codec=context.codec.canonical_name,
        duration_s=_duration_s(container, stream),
        start_s=_start_s(stream),
    )


def _first_frame(path: Path, container: InputContainer, stream: VideoStream) -> VideoFrame:
    reason = "no frame in it can be decoded"
    decode = decoder_of(stream, threads=1)
    try:
        for packets, packet in enumerate(container.demux(stream)):
            try:
                for frame in decode(packet):
                    return cast(VideoFrame, frame)
            except av.FFmpegError as error:
                reason = f"no frame in it can be decoded ({error.strerror})"
            if packets > _PACKETS_BEFORE_FIRST_FRAME:
                break
    except av.FFmpegError as error:
        reason = f"it cannot be read ({error.strerror})"
    raise MediaError(f"'{path}' is damaged: {reason}", hint="copy the file again, or export it as H.264 .mp4")


def _tag(of_stream: int, of_frame: int) -> int:
    return int(of_frame if of_stream == UNSPECIFIED else of_stream)


def _start_s(stream: VideoStream | AudioStream) -> float:
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _duration_s(container: InputContainer, stream: VideoStream | AudioStream) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated is not None:  # how Matroska says it for one track
        return int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    if container.duration is not None:
        return container.duration / av.time_base
    return 0.0


def _is_picture(container: InputContainer, stream: VideoStream) -> bool:
    name = container.format.name
    if name.endswith("_pipe") or name in ("image2", "ico"):
        return True
    if container.metadata.get("major_brand") in _PICTURE_BRANDS:
        return True
    return stream.frames == 1 and container.duration is not None


def _is_variable(stream: VideoStream) -> bool:
    entries = stream.index_entries
    if stream.frames and len(entries) == stream.frames > 2:
        return are_uneven(sorted(entry.timestamp for entry in entries))
    average, base = stream.average_rate, stream.base_rate
    if not average or not base:
        return False
    # A base rate of twice the average is how field-coded streams with even frames look.
    return all(abs(average / (base / fields) - 1) > 0.02 for fields in (1, 2))


def are_uneven(ticks: Sequence[int]) -> bool:
    """Whether sorted times are unevenly spaced, by more than rounding."""
    steps = [later - earlier for earlier, later in pairwise(ticks)]
    usual = statistics.median(steps)
    return any(abs(step - usual) > max(2, usual / 4) for step in steps)
