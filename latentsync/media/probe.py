"""What a media file holds: size, frame rate, colour tags and sound, read from its headers and first frame."""

from __future__ import annotations

import os
import re
import statistics
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import MediaError

PICTURE_FPS = Fraction(25)
COLORSPACE_RGB, UNSPECIFIED = 0, 2  # ITU-T H.273, tables 2 to 4
_PACKETS_BEFORE_FIRST_FRAME = 500
_TEXT_FORMATS = {"tty", "hls", "concat", "sdp", "ffmetadata"}  # these take any text for a video, or follow it
# A tag that is not UTF-8 must not stop a video. PyAV 19 has no such option: it never stops there.
_HAS_TAG_OPTION = int(av.__version__.split(".")[0]) < 19
_LENIENT_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if _HAS_TAG_OPTION else {}
_StreamT = TypeVar("_StreamT", VideoStream, AudioStream)


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


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The audio stream of a file. `start_s` is when its first sample is heard, on the file's clock."""

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


def probe(path: Path) -> MediaInfo:
    """Tell what `path` holds. Reads headers and decodes one frame.

    Raises:
        MediaError: the file is missing, a folder, empty, cut off, or not media.
    """
    with open_media(path) as container:
        video_stream = main_stream(container, VideoStream)
        audio_stream = main_stream(container, AudioStream)
        if video_stream is None and audio_stream is None:
            raise MediaError(
                f"'{path}' has neither a video nor an audio stream",
                hint="give a video, picture or sound file",
            )
        _refuse_cut_off(path, container)
        audio = _audio_info(container, audio_stream) if audio_stream is not None else None
        video = _video_info(path, container, video_stream) if video_stream is not None else None
        return MediaInfo(path, container.format.name, video, audio)


def require_video(path: Path) -> VideoInfo:
    """Tell about the video stream or picture in `path`.

    Raises:
        MediaError: as `probe`, or there is no video stream.
    """
    info = probe(path).video
    if info is None:
        raise _no_stream(path, VideoStream)
    return info


def require_audio(path: Path) -> AudioInfo:
    """Tell about the audio stream in `path`.

    Raises:
        MediaError: as `probe`, or there is no audio stream.
    """
    info = probe(path).audio
    if info is None:
        raise _no_stream(path, AudioStream)
    return info


def open_media(path: Path) -> InputContainer:
    """Open `path` for reading.

    Raises:
        MediaError: the file is missing, a folder, empty, or not media.
    """
    _refuse_no_file(path)
    try:
        container: InputContainer = av.open(
            media_url(path),
            "r",
            # A playlist or a numbered name must not make the library read other files or the network.
            container_options={"protocol_whitelist": "file", "pattern_type": "none"},
            **_LENIENT_TAGS,
        )
    except (av.FFmpegError, OSError) as error:
        raise _not_media(path, error) from error
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise MediaError(
            f"'{path}' is a text file, not a video, picture or sound",
            hint="give a media file such as .mp4 or .wav",
        )
    return container


def media_url(path: Path) -> str:
    """Name `path` so that no part of it is taken for an option or a protocol."""
    return f"file:{path.absolute()}"


def main_stream(container: InputContainer, kind: type[_StreamT]) -> _StreamT | None:
    """Find the first stream of a kind. The cover picture of a sound file is no video."""
    for stream in container.streams:
        if isinstance(stream, kind) and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def need_stream(path: Path, container: InputContainer, kind: type[_StreamT]) -> _StreamT:
    """Find the first stream of a kind, or say that `path` has none.

    Raises:
        MediaError: there is no such stream.
    """
    stream = main_stream(container, kind)
    if stream is None:
        raise _no_stream(path, kind)
    return stream


def _no_stream(path: Path, kind: type[VideoStream] | type[AudioStream]) -> MediaError:
    if kind is VideoStream:
        return MediaError(f"'{path}' has no video stream, only sound", hint="give a video or a picture here")
    return MediaError(
        f"'{path}' has no audio stream", hint="give a sound file such as .wav or .mp3, or a video with sound"
    )


def _refuse_no_file(path: Path) -> None:
    try:
        is_there = path.exists()
    except OSError as error:
        raise MediaError(f"'{path}' cannot be read: {error.strerror}", hint="check the file name") from error
    if not is_there:
        raise MediaError(f"'{path}' does not exist", hint="check the file name and the folder")
    if path.is_dir():
        raise MediaError(f"'{path}' is a folder, not a media file", hint="name one file in it")
    if not path.is_file():
        raise MediaError(f"'{path}' is not a regular file", hint="save it to a file first")
    if path.stat().st_size == 0:
        raise MediaError(f"'{path}' is empty (0 bytes)", hint="copy or download the file again")
    if not os.access(path, os.R_OK):
        raise MediaError(f"'{path}' cannot be read: permission denied", hint="change the file's permissions")


def _not_media(path: Path, error: Exception) -> MediaError:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as read_error:
        return MediaError(f"'{path}' cannot be read: {read_error.strerror}", hint="check the disk")
    if head[4:8] == b"ftyp":
        return MediaError(
            f"'{path}' is cut off or damaged: it begins like an mp4 but has no usable index",
            hint="copy or download the file again, or export it again from the program that made it",
        )
    kind = "a text file" if _is_text(head) else f"damaged or of an unknown format ({error})"
    return MediaError(
        f"'{path}' is not a video, picture or sound that can be read: it is {kind}",
        hint="give a media file such as .mp4, .mov, .mkv, .png or .wav",
    )


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut in the middle
    return b"\0" not in head


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
    try:
        for packets, packet in enumerate(container.demux(stream)):
            try:
                for frame in packet.decode():
                    return frame
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
    if name.endswith("_pipe") or name == "image2":
        return True
    return stream.frames == 1 and container.duration is not None


def _is_variable(stream: VideoStream) -> bool:
    entries = stream.index_entries
    if stream.frames and len(entries) == stream.frames > 2:
        times = sorted(entry.timestamp for entry in entries)
        steps = [later - earlier for earlier, later in pairwise(times)]
        usual = statistics.median(steps)
        return any(abs(step - usual) > max(2, usual / 4) for step in steps)
    average, base = stream.average_rate, stream.base_rate
    if not average or not base:
        return False
    # A base rate of twice the average is how field-coded streams with even frames look.
    return all(abs(average / (base / fields) - 1) > 0.02 for fields in (1, 2))
