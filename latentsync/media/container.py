"""Opens media files and chooses their streams: the boundary to FFmpeg, and the only one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import av
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from latentsync.errors import LatentSyncError, MediaError
from latentsync.files import open_regular

_TEXT_FORMATS = {"tty", "hls", "concat", "sdp", "ffmetadata"}  # these take any text for a video, or follow it
# A tag that is not UTF-8 must not stop a video. PyAV 19 has no such option: it never stops there.
_HAS_TAG_OPTION = int(av.__version__.split(".")[0]) < 19
_LENIENT_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if _HAS_TAG_OPTION else {}
_PICTURE_CODECS = {"mjpeg", "png", "bmp", "gif", "webp", "tiff", "jpeg2000"}
_ASIDE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_FOR_SOME = Disposition.comment | Disposition.visual_impaired | Disposition.hearing_impaired
_TILED_BRANDS = {"heic", "heix", "heim", "heis", "mif1"}
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_HEAD_BYTES = 4096
# Their headers name no streams, which are known by their first packets: sound may begin after a long silence.
_OPEN_FORMATS = {"flv", "mpeg", "mpegts"}
# How far they are searched, in bytes and microseconds: as long a gap as there may be, within bounded memory.
_FURTHER = {"probesize": str(64 << 20), "analyzeduration": str(600_000_000)}
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave transparency out
StreamT = TypeVar("StreamT", VideoStream, AudioStream)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever FFmpeg and PyAV raise inside into a MediaError that names the file which is read.

    Their errors for a broken file are many: FFmpegError, but also IndexError for a stream that appears late,
    ValueError for a value they do not know, MemoryError for a size that only the file states.
    """
    try:
        yield
    except LatentSyncError:
        raise
    except (av.FFmpegError, OSError, ArithmeticError, LookupError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MediaError(
            f"'{path}' cannot be decoded: {text}",
            hint="copy the file again, or convert it, for example to H.264 and AAC in .mp4",
        ) from error


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a regular file for reading, and close it at the end; inside is the boundary `reading`.

    Raises:
        MediaError: the file is missing, a folder, a pipe or device, empty, not media, or damaged.
    """
    head = _head_of(path)
    with reading(path):
        try:
            container = _opened(path)
            state = path.stat()
            if _misses_a_kind(container) and _has_late_streams(path, state.st_mtime_ns, state.st_size):
                container.close()
                container = _opened(path, _FURTHER)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _not_media(path, head, error) from error
        try:
            if container.format.name in _TEXT_FORMATS:
                raise MediaError(
                    f"'{path}' is a text file, not a video, picture or audio file",
                    hint="give a media file such as .mp4 or .wav",
                )
            _refuse_tiles(path, container)
            if b"WEBPVP8X" in head[:20] and b"ANIM" in head:
                raise MediaError(
                    f"'{path}' is an animated WebP, which cannot be read",
                    hint="export it as GIF, PNG or .mp4",
                )
            yield container
        finally:
            container.close()


def _opened(path: Path, options: Mapping[str, str] = MappingProxyType({})) -> InputContainer:
    container: InputContainer = av.open(
        media_url(path),
        "r",
        # A playlist or a numbered name must not make the library read other files or the network.
        container_options={"protocol_whitelist": "file", "pattern_type": "none", **options},
        **_LENIENT_TAGS,
    )
    return container


def _misses_a_kind(container: InputContainer) -> bool:
    if container.format.name not in _OPEN_FORMATS:
        return False
    has_pictures = any(stream.codec_context.width for stream in streams_of(container, VideoStream))
    has_sound = any(stream.codec_context.sample_rate for stream in streams_of(container, AudioStream))
    return not (has_pictures and has_sound)


@lru_cache(maxsize=256)
def _has_late_streams(path: Path, mtime_ns: int, size_bytes: int) -> bool:
    """Whether a search further into the file finds the kind of stream that its beginning lacks."""
    with _opened(path, _FURTHER) as container:
        return not _misses_a_kind(container)


def media_url(path: Path) -> str:
    """Name `path` so that no part of it is taken for an option or a protocol."""
    return f"file:{path.absolute()}"


def streams_of(container: InputContainer, kind: type[StreamT]) -> list[StreamT]:
    """The streams of a kind that can be used: with a decoder, and no cover picture of a sound file."""
    return [
        stream
        for stream in container.streams
        if isinstance(stream, kind)
        and getattr(stream, "codec_context", None) is not None
        and not stream.disposition & Disposition.attached_pic
    ]


def choose_stream(
    path: Path, container: InputContainer, kind: type[StreamT], track: int | None = None
) -> StreamT | None:
    """Choose the stream of a kind: number `track` of them, or the one that a player would show.

    That is the default one, a film rather than a thumbnail, speech rather than a commentary; then the first.

    Raises:
        MediaError: there are streams of the kind, but not that one.
    """
    streams = streams_of(container, kind)
    if track is not None and streams:
        if track >= len(streams):
            raise MediaError(
                f"'{path}' has no {_name(kind)} track {track}, only {len(streams)}",
                hint=f"choose one from 0 to {len(streams) - 1}",
            )
        return streams[track]
    return _best(streams)


def alpha_stream(container: InputContainer) -> VideoStream | None:
    """The picture of transparency that AVIF keeps beside the colours; None where there is none."""
    if container.metadata.get("major_brand") not in ("avif", "avis"):
        return None
    for stream in streams_of(container, VideoStream)[1:]:
        layout = stream.codec_context.format
        if layout is not None and layout.name.startswith("gray"):
            return stream
    return None


def describe_doubt(path: Path, container: InputContainer, kind: type[StreamT]) -> str | None:
    """One line that names the streams of a kind and how to choose; None where there is no doubt."""
    streams = streams_of(container, kind)
    rivals = _without(streams, _is_thumbnail)
    if len(rivals) < 2:
        return None
    chosen = _best(streams)
    names = ", ".join(f"{number} ({_described(stream)})" for number, stream in enumerate(streams))
    return (
        f"'{path}' has {len(streams)} {_name(kind)} tracks: {names}; number {streams.index(chosen)} is used, "
        f"--{_name(kind)}-track takes another"
        if chosen is not None
        else None
    )


def need_stream(
    path: Path, container: InputContainer, kind: type[StreamT], track: int | None = None
) -> StreamT:
    """Choose a stream as `choose_stream`, or say that `path` has none.

    Raises:
        MediaError: there is no such stream.
    """
    stream = choose_stream(path, container, kind, track)
    if stream is None:
        raise no_stream(path, container, kind)
    return stream


class PacketSource:
    """Packets of one file that go into an output, in step with its pictures. Subclasses set `_packets`."""

    _packets: Iterator[Packet[Stream]]

    def __init__(self, target: OutputContainer, path: Path) -> None:
        """Open `path`; `close` closes it."""
        self._target, self._path = target, path
        self._open = ExitStack()
        self._source = self._open.enter_context(open_media(path))
        self._next: Packet[Stream] | None = None

    def mux_until(self, time_s: float | None) -> None:
        """Write the packets that are played before `time_s`; None: all that are left."""
        while True:
            if self._next is None:
                with reading(self._path):  # its faults are not those of the output
                    self._next = next(self._packets, None)
            packet = self._next
            if packet is None:
                return
            if time_s is not None and float((packet.dts or 0) * packet.time_base) >= time_s:
                return
            self._target.mux(packet)
            self._next = None

    def close(self) -> None:
        """Close the file."""
        self._open.close()


def decoder_of(stream: Stream, *, threads: int = 0) -> Callable[[Any], Sequence[object]]:
    """What turns packets of `stream` into frames, with their transparency where WebM keeps it beside them.

    Args:
        threads: of the decoder; 0: as many as there are cores.
    """
    if not isinstance(stream, VideoStream):
        return Packet.decode
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    name = _WITH_ALPHA.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return Packet.decode
    try:
        context: Any = CodecContext.create(name, "r")
    except ValueError:  # an FFmpeg that was built without it
        return Packet.decode
    context.thread_count = threads
    return lambda packet: context.decode(packet if packet.size else None)


def no_stream(
    path: Path, container: InputContainer, kind: type[VideoStream] | type[AudioStream]
) -> MediaError:
    """The error for a file without a usable stream of a kind."""
    hint = "give a video or a picture here"
    if kind is AudioStream:
        hint = "give an audio file such as .wav or .mp3, or a video with audio"
    if any(stream.type == _name(kind) and stream.codec_context is None for stream in container.streams):
        return MediaError(f"the {_name(kind)} of '{path}' cannot be decoded: its codec is unknown", hint=hint)
    if kind is VideoStream:
        found = ", only audio" if streams_of(container, AudioStream) else ""
        return MediaError(f"'{path}' has no video stream{found}", hint=hint)
    return MediaError(f"'{path}' has no audio stream", hint=hint)


def _best(streams: list[StreamT]) -> StreamT | None:
    """The first of those that are left when ever finer preferences are applied, as long as any is left."""
    for is_worse in (_is_thumbnail, _is_for_some, _is_not_default):
        streams = _without(streams, is_worse)
    return streams[0] if streams else None


def _without(streams: list[StreamT], is_worse: Any) -> list[StreamT]:
    return [stream for stream in streams if not is_worse(stream)] or streams


def _is_thumbnail(stream: VideoStream | AudioStream) -> bool:
    if not isinstance(stream, VideoStream):
        return False
    is_small = stream.frames == 1 or stream.codec_context.name in _PICTURE_CODECS
    return is_small or bool(stream.disposition & _ASIDE)


def _is_for_some(stream: VideoStream | AudioStream) -> bool:
    return bool(stream.disposition & _FOR_SOME)


def _is_not_default(stream: VideoStream | AudioStream) -> bool:
    return not stream.disposition & Disposition.default


def _name(kind: type[VideoStream] | type[AudioStream]) -> str:
    return "video" if kind is VideoStream else "audio"


def _described(stream: VideoStream | AudioStream) -> str:
    words = [stream.metadata.get("language", ""), stream.metadata.get("title", ""), stream.codec_context.name]
    if isinstance(stream, VideoStream):
        words.append(f"{stream.codec_context.width}x{stream.codec_context.height}")
    return " ".join(word for word in words if word and word != "und")


def _head_of(path: Path) -> bytes:
    """The first bytes of a regular file.

    Raises:
        MediaError: it is missing, a folder, a pipe or device, empty, or cannot be read.
    """
    address = _ADDRESS.match(str(path))
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        if address is not None:
            raise _is_url(address[1].lower(), str(path)[address.end() :]) from error
        raise MediaError(f"'{path}' does not exist", hint="check the file name and the folder") from error
    except PermissionError as error:
        hint = "change the file's permissions"
        raise MediaError(f"'{path}' cannot be read: permission denied", hint=hint) from error
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        raise MediaError(f"'{path}' cannot be read: {text}", hint="check the file name") from error
    except MediaError as error:
        if os.path.isdir(path):
            raise MediaError(f"'{path}' is a folder, not a media file", hint="name one file in it") from error
        raise
    if not head:
        raise MediaError(f"'{path}' is empty (0 bytes)", hint="copy or download the file again")
    return head


def _is_url(scheme: str, rest: str) -> MediaError:
    """The error about an address, whose slashes a `Path` has joined to one."""
    if scheme == "file":
        return MediaError(f"'file:///{rest}' is a URL", hint=f"give the path alone: '/{rest}'")
    return MediaError(f"'{scheme}://{rest}' is a URL", hint="download it and give the path of the file")


def _refuse_tiles(path: Path, container: InputContainer) -> None:
    """A photo of many tiles would be read as the first of them."""
    brand = container.metadata.get("major_brand", "")
    if brand in _TILED_BRANDS and sum(stream.type == "video" for stream in container.streams) > 1:
        raise MediaError(f"'{path}' is a tiled HEIC photo, which is not supported", hint="export it as JPEG")


def _not_media(path: Path, head: bytes, error: Exception) -> MediaError:
    if head[4:8] == b"ftyp":
        return MediaError(
            f"'{path}' is cut off or damaged: it begins like an mp4 but has no usable index",
            hint="copy or download the file again, or export it again from the program that made it",
        )
    reason = getattr(error, "strerror", None) or error
    kind = "a text file" if _is_text(head) else f"damaged or of an unknown format ({reason})"
    return MediaError(
        f"'{path}' is not a readable video, picture or audio file: it is {kind}",
        hint="give a media file such as .mp4, .mov, .mkv, .png or .wav",
    )


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut in the middle
    return b"\0" not in head
