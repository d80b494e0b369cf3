"""Writing a video once: pictures encoded, speech beside them, and nothing left behind when it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from latentsync.axes import expect_axes
from latentsync.errors import MediaError, UsageError
from latentsync.files import part_beside
from latentsync.media.carry import Carried, CarriedStreams
from latentsync.media.container import media_url
from latentsync.media.pixels import HLG, PQ, is_known_matrix, matrix_of
from latentsync.media.planes import TO_STORED, Planes, patch
from latentsync.media.probe import COLORSPACE_RGB, UNSPECIFIED, VideoInfo
from latentsync.media.sound import SpeechTrack
from latentsync.rates import VIDEO_FPS
from latentsync.types import FrameImage, Patched

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_LIMITED, _FULL, _BT709 = 1, 2, 1  # ITU-T H.273
_FINE_TICKS_PER_S = 90_000
_AVX512 = 256  # OpenCV's number for the instructions that x264 needs for its AVX-512 code
_NVENC_PRESETS = {
    "ultrafast": "p1",
    "superfast": "p1",
    "veryfast": "p2",
    "faster": "p3",
    "fast": "p4",
    "medium": "p5",
    "slow": "p6",
    "slower": "p7",
    "veryslow": "p7",
}
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


PixelFormat = Literal["auto", "keep"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pictures are compressed.

    crf     0 is best, 18 cannot be told from the source, 51 is worst; lossless has none
    preset  ultrafast to veryslow: slower is smaller
    threads of libx264; what it writes depends on their number, which therefore is not the machine's
    pixels  "auto": yuv420p, which every player takes, an odd size made even by repeating the last row or
            column; "keep": the size as it is, which takes yuv444p where it is odd
    """

    codec: Literal["libx264", "libx265", "h264_nvenc", "lossless"] = "libx264"
    crf: int = 18
    preset: str = "medium"
    threads: int = 4
    pixels: PixelFormat = "auto"


USUAL_ENCODING = Encoding()


@dataclass(frozen=True, slots=True)
class _ColourTags:
    primaries: int
    trc: int
    colorspace: int
    color_range: int


class VideoWriter:
    """Writes a video to `<name>.<token>.part<suffix>` and gives it its name when all went well.

    Use as a context manager: any exception, Ctrl-C too, deletes the part and leaves an existing target alone.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction,
        like: VideoInfo | None = None,
        speech: Path | None = None,
        encoding: Encoding = USUAL_ENCODING,
        duration_s: float | None = None,
        audio_track: int | None = None,
        carried: Carried | None = None,
        mark: str = "",
        replaces: bool = True,
    ) -> None:
        """Open the output.

        Args:
            path: .mp4, .m4v, .mov or .mkv.
            width: of every picture, in pixels.
            height, fps: of the video.
            like: the video whose colour tags and pixel aspect are kept; None or a picture: BT.709.
            speech: file whose sound goes beside the pictures.
            encoding: how to compress.
            duration_s: the sound is cut here; None: not at all.
            audio_track: which audio stream of `speech`.
            carried: whose tags, chapters, subtitles and further audio tracks come along.
            mark: what the tag "comment" says of the file, after what it says already.
            replaces: False: whatever has the name `path` at the end stays.

        Raises:
            MediaError: the file cannot be written, the suffix is unknown, the encoder is missing, or the
                speech has no sound.
        """
        self._path, self._replaces = path, replaces
        self._size, self._fps = (height, width), fps
        self._pts = -1
        self._reformatter = VideoReformatter()
        self._speech: SpeechTrack | None = None
        self._carried: CarriedStreams | None = None
        self._container: OutputContainer | None = None
        container_format = container_format_of(path)
        self._target = Path(os.path.realpath(path))  # a link stays: the file that it names is written
        self._part = _reserve_part(path, self._target)
        try:
            with self._explained():
                container = self._container = _open_output(self._part, container_format)
                self._tags = _colour_tags(like, encoding)
                self._stream = self._add_video(container, encoding, like, container_format)
                if speech is not None:
                    self._speech = SpeechTrack(container, speech, duration_s=duration_s, track=audio_track)
                if carried is not None:
                    self._carried = CarriedStreams(container, carried)
                _add_mark(container, mark)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def write(self, picture: FrameImage | Patched, time_s: float | None = None) -> None:
        """Append one picture.

        Args:
            picture: (h w c) RGB of the size given at the start; of a patched picture that is stored as it
                will be stored here, only the patch is converted.
            time_s: when it is shown, for variable frame rate; None: one frame after the last.

        Raises:
            MediaError: the disk is full or gone.
            ValueError: times do not increase.
        """
        expect_axes(picture, "h w c", h=self._size[0], w=self._size[1], c=3)
        if isinstance(picture, np.ndarray) and picture.dtype != np.uint8:
            raise ValueError(f"expected uint8 pixels, got {picture.dtype}")
        with self._explained():
            frame = self._frame_of(picture)
            frame.pts = self._pts = self._next_pts(time_s)
            frame.time_base, frame.duration = self._tick_s, self._slot_ticks
            for packet in self._stream.encode(frame):
                self._open_container.mux(packet)
            for further in self._further():
                further.mux_until(float(self._pts * self._tick_s))

    @property
    def _open_container(self) -> OutputContainer:
        if self._container is None:
            raise ValueError(f"the writer of '{self._path}' is closed")
        return self._container

    @property
    def _tick_s(self) -> Fraction:
        return self._stream.codec_context.time_base or 1 / self._fps

    @property
    def _slot_ticks(self) -> int:
        return max(1, round(1 / self._fps / self._tick_s))

    def _next_pts(self, time_s: float | None) -> int:
        if time_s is None:
            return 0 if self._pts < 0 else self._pts + self._slot_ticks
        if self._pts < 0:
            # A multiple of the frame rate: evenly spaced frames stay exact, others are off by 6 us at most.
            ticks_per_s = self._fps.numerator * -(-_FINE_TICKS_PER_S // self._fps.numerator)
            self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, ticks_per_s)
        pts = round(Fraction(time_s) / self._tick_s)
        if pts <= self._pts:
            last_s = float(self._pts * self._tick_s)
            raise ValueError(f"frame times must increase, got {time_s} s after {last_s} s")
        return pts

    def _add_video(
        self, container: OutputContainer, encoding: Encoding, like: VideoInfo | None, container_format: str
    ) -> VideoStream:
        codec, pix_fmt, options = _encoder_of(encoding, container_format, self._size)
        height, width = self._stored_size = _stored_size(self._size, pix_fmt)
        if codec == "h264_nvenc":
            _require_nvenc(self._stored_size, pix_fmt)
        stream = cast(
            VideoStream, container.add_stream(codec, self._fps, options, width=width, height=height)
        )
        context = stream.codec_context
        context.pix_fmt = pix_fmt
        context.time_base = stream.time_base = 1 / self._fps
        context.color_primaries, context.color_trc = self._tags.primaries, self._tags.trc
        context.colorspace, context.color_range = self._tags.colorspace, self._tags.color_range
        if like is not None and like.pixel_aspect != 1:
            context.sample_aspect_ratio = like.pixel_aspect
        if codec == "libx265" and container_format != "matroska":
            context.codec_tag = "hvc1"  # Apple's players refuse the default, hev1
        return stream

    def _frame_of(self, picture: FrameImage | Patched) -> VideoFrame:
        """The picture in the encoder's format."""
        if isinstance(picture, np.ndarray):
            return self._encodable(picture)
        planes = picture.picture
        if not isinstance(planes, Planes) or not self._stores_like(planes):
            return self._encodable(picture.rgb_u8)
        frame = planes.copy_as(self._pix_fmt)
        patch(frame, picture, self._encodable_part)
        frame.colorspace, frame.color_range = self._tags.colorspace, self._tags.color_range
        return frame

    def _stores_like(self, planes: Planes) -> bool:
        """Whether brightness and colour mean the same in the planes as in what is written."""
        return (
            self._tags.colorspace != COLORSPACE_RGB
            and self._stored_size == self._size == planes.shape[:2]
            and planes.matrix == matrix_of(self._tags.colorspace)
            and planes.is_full_range == (self._tags.color_range == _FULL)
        )

    @property
    def _pix_fmt(self) -> str:
        return self._stream.codec_context.pix_fmt or ""

    def _encodable(self, rgb_u8: FrameImage) -> VideoFrame:
        height, width = self._stored_size
        if rgb_u8.shape[:2] != (height, width):
            added = ((0, height - rgb_u8.shape[0]), (0, width - rgb_u8.shape[1]), (0, 0))
            rgb_u8 = np.pad(rgb_u8, added, mode="edge")
        return self._encodable_part(rgb_u8)

    def _encodable_part(self, rgb_u8: FrameImage) -> VideoFrame:
        """RGB pixels (h w c) of any even size in the encoder's format."""
        rgb_u8 = np.ascontiguousarray(rgb_u8)
        if (
            self._tags.colorspace == COLORSPACE_RGB
        ):  # the encoder may keep the frame, so it needs its own pixels
            frame = VideoFrame.from_ndarray(rgb_u8, format="rgb24")
            return self._reformatter.reformat(frame, format=self._pix_fmt, threads=1)
        frame = VideoFrame.from_numpy_buffer(rgb_u8, format="rgb24")
        encodable = self._reformatter.reformat(
            frame,
            format=self._pix_fmt,
            dst_colorspace=matrix_of(self._tags.colorspace),
            dst_color_range=self._tags.color_range or _LIMITED,
            interpolation=TO_STORED,
            threads=1,
        )
        encodable.colorspace, encodable.color_range = self._tags.colorspace, self._tags.color_range
        return encodable

    def _finish(self) -> None:
        with self._explained():
            if self._pts < 0:
                raise _no_frame(self._path)
            container = self._open_container
            for packet in self._stream.encode(None):
                container.mux(packet)
            for further in self._further():
                further.mux_until(None)
                further.close()
            container.close()
            self._container = None
            with self._part.open("rb+") as part:
                os.fsync(part.fileno())  # some disks report only here that they are full
            self._publish()

    def _publish(self) -> None:
        """Give the part its name."""
        if self._replaces:
            os.replace(self._part, self._target)
            return
        try:
            os.link(self._part, self._target)  # unlike a rename, it fails where a file has the name already
        except FileExistsError as error:
            raise UsageError(
                f"'{self._path}': another run has written it in the meantime",
                hint="add --force to replace it",
            ) from error
        except OSError:  # a file system without hard links
            os.replace(self._part, self._target)
        self._part.unlink(missing_ok=True)

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        for further in self._further():
            further.close()
        if self._container is not None:
            with suppress(av.FFmpegError, OSError):
                self._container.close()
            self._container = None

    def _further(self) -> list[SpeechTrack | CarriedStreams]:
        """What is written beside the pictures."""
        return [further for further in (self._speech, self._carried) if further is not None]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise _not_writable(self._path, error) from error


def write_video(
    path: Path,
    frames: Iterable[FrameImage],
    *,
    fps: Fraction = Fraction(VIDEO_FPS),
    like: VideoInfo | None = None,
    speech: Path | None = None,
    encoding: Encoding = USUAL_ENCODING,
    duration_s: float | None = None,
) -> Path:
    """Write evenly spaced pictures (h w c) of one size; the arguments are those of `VideoWriter`.

    Returns:
        `path`.

    Raises:
        MediaError: as `VideoWriter`.
    """
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise _no_frame(path)
    height, width = first.shape[:2]
    with VideoWriter(
        path,
        width=width,
        height=height,
        fps=fps,
        like=like,
        speech=speech,
        encoding=encoding,
        duration_s=duration_s,
    ) as writer:
        for picture in chain([first], pictures):
            writer.write(picture)
    return path


def container_format_of(path: Path) -> str:
    """FFmpeg's name for the container that a suffix stands for.

    Raises:
        MediaError: the suffix is none that is written.
    """
    container_format = _FORMATS.get(path.suffix.lower())
    if container_format is None:
        raise MediaError(
            f"'{path}' cannot be written: unknown suffix '{path.suffix}'",
            hint=f"end the name in one of {', '.join(_FORMATS)}",
        )
    return container_format


def _add_mark(container: OutputContainer, mark: str) -> None:
    """Say `mark` in the tag "comment", after what that says already."""
    before = container.metadata.get("comment")
    if mark:
        container.metadata["comment"] = f"{before}; {mark}" if before else mark


def _open_output(part: Path, container_format: str) -> OutputContainer:
    options = {"fflags": "+bitexact"}  # no random identities, which Matroska has for tracks
    if container_format != "matroska":
        options["movflags"] = "+faststart"
    return av.open(media_url(part), "w", format=container_format, container_options=options)


def _reserve_part(path: Path, target: Path) -> Path:
    """Create the empty file that the video is written to, beside its target."""
    part = part_beside(target, keep_suffix=True)
    try:
        if not target.parent.is_dir():
            raise MediaError(f"'{path}' cannot be written: its folder does not exist", hint="create it first")
        if path.is_dir():  # also finds a name that is too long
            raise MediaError(f"'{path}' cannot be written: it is a folder", hint="give a file name")
        part.open("xb").close()
    except OSError as error:
        raise _not_writable(path, error) from error
    return part


def _no_frame(path: Path) -> MediaError:
    return MediaError(f"'{path}' got no frame", hint="choose a longer part of the video")


def _not_writable(path: Path, error: av.FFmpegError | OSError) -> MediaError:
    hint = "choose another file with -o"
    if error.errno in _NO_SPACE:
        hint = "free some space, or choose another disk with -o"
    return MediaError(f"'{path}' cannot be written: {error.strerror or error}", hint=hint)


def _encoder_of(
    encoding: Encoding, container_format: str, size: tuple[int, int]
) -> tuple[str, str, dict[str, str]]:
    """The encoder's name, its pixel format and its options."""
    if encoding.codec == "lossless":
        if container_format == "matroska":
            return "ffv1", "bgr0", {"level": "3", "slicecrc": "1"}
        return "libx264rgb", "rgb24", {"crf": "0", "preset": encoding.preset}
    # Chroma at half size exists for even sizes only, at full size for odd ones, too, which few players take.
    is_odd = size[0] % 2 or size[1] % 2
    pix_fmt = "yuv444p" if is_odd and encoding.pixels == "keep" else "yuv420p"
    if encoding.codec == "h264_nvenc":
        preset = _NVENC_PRESETS.get(encoding.preset, encoding.preset)
        return encoding.codec, pix_fmt, {"rc": "vbr", "cq": str(encoding.crf), "b": "0", "preset": preset}
    options = {"crf": str(encoding.crf), "preset": encoding.preset}
    if encoding.codec == "libx265":
        options["x265-params"] = "log-level=error"
    else:
        # Threads that share a frame cut it into slices, one per processor; frames side by side do not.
        options |= {"threads": str(encoding.threads), "thread_type": "frame"}
        if cv2.checkHardwareSupport(_AVX512):
            # x264's AVX-512 code for macroblock trees reads memory that it never wrote: the bytes of the
            # result, and grey levels of all frames, depended on what the process had used it for before.
            options["x264-params"] = "asm=avx2"
    return encoding.codec, pix_fmt, options


def _stored_size(size: tuple[int, int], pix_fmt: str) -> tuple[int, int]:
    """Height and width as encoded."""
    return (size[0] + size[0] % 2, size[1] + size[1] % 2) if pix_fmt == "yuv420p" else size


def require_encoder(encoding: Encoding, path: Path, size: tuple[int, int]) -> None:
    """Find out whether `VideoWriter` could write to `path`, before anything slow is done.

    Args:
        size: height and width of the pictures.

    Raises:
        MediaError: the suffix is unknown, or the encoder does not work here.
    """
    codec, pix_fmt, _ = _encoder_of(encoding, container_format_of(path), size)
    if codec == "h264_nvenc":
        _require_nvenc(_stored_size(size, pix_fmt), pix_fmt)


def _require_nvenc(size: tuple[int, int], pix_fmt: str) -> None:
    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.height, context.width, context.pix_fmt = max(size[0], 256), max(size[1], 256), pix_fmt
        context.time_base = Fraction(1, 25)
        context.open()
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            "encoder 'h264_nvenc' does not work on this machine",
            hint="use --codec libx264; h264_nvenc needs an NVIDIA card with an encoder, and its driver",
        ) from error


def _colour_tags(like: VideoInfo | None, encoding: Encoding) -> _ColourTags:
    if encoding.codec == "lossless":
        is_kept = like is not None and like.color_trc not in (PQ, HLG)
        primaries, trc = (like.color_primaries, like.color_trc) if is_kept and like else (_BT709, _BT709)
        return _ColourTags(primaries, trc, COLORSPACE_RGB, _FULL)
    if like is None or like.is_picture or like.colorspace == COLORSPACE_RGB or like.color_trc in (PQ, HLG):
        return _ColourTags(_BT709, _BT709, _BT709, _LIMITED)
    colorspace = like.colorspace if is_known_matrix(like.colorspace) else UNSPECIFIED
    return _ColourTags(like.color_primaries, like.color_trc, colorspace, like.color_range)
