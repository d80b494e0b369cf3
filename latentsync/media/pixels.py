"""From decoded frames to upright 8-bit RGB, and which matrix turns colours into RGB and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import av
import cv2
import numpy as np
from av.buffer import Buffer
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from latentsync.types import FrameImage

# Without the two flags the conversion of 4:2:0 video darkens every frame by about one grey level (measured).
EXACT_COLOUR = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_BT601 = 5
_MATRIX_OF_TAG = {1: 1, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}  # H.273 code point -> name of swscale
PQ, HLG = 16, 18  # H.273 transfer characteristics of HDR
BACKGROUND = 255  # white is what viewers and browsers put behind a transparent picture

DisplayMatrix = tuple[int, int, int, int]  # a, b, c, d


def matrix_of(colorspace: int) -> int:
    """The conversion matrix for a colour tag. Untagged video is taken for BT.601, here and in the writer."""
    return _MATRIX_OF_TAG.get(colorspace, _BT601)


def is_known_matrix(colorspace: int) -> bool:
    """Whether frames with this colour tag are converted by the matrix that it names."""
    return colorspace in _MATRIX_OF_TAG


def has_alpha(pix_fmt: str) -> bool:
    """Whether pixels of this format may be transparent."""
    return pix_fmt == "pal8" or any(
        component.is_alpha for component in av.VideoFormat(pix_fmt, 16, 16).components
    )


class RGBConverter:
    """Turns decoded frames into upright RGB pictures of one size.

    Transparent parts show `BACKGROUND`; HDR is tone-mapped to BT.709.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        """`size` is width and height as stored, before rotation; None: those of the first frame."""
        self._reformatter = VideoReformatter()
        self._stored_size = size
        self._rotation: int | None = None
        self._matrix: DisplayMatrix | None = None

    def __call__(self, frame: VideoFrame) -> FrameImage:
        self._stored_size = self._stored_size or (frame.width, frame.height)
        if frame.color_trc in (PQ, HLG):
            # Planar: swscale's packed 48-bit RGB overflows with full chroma interpolation.
            stored_u8 = tone_map(self._convert(frame, "gbrp16le"), frame.color_trc)
        elif has_alpha(frame.format.name):
            rgba_u8 = self._convert(frame, "rgba")
            stored_u8 = over_background(rgba_u8[..., :3], rgba_u8[..., 3])
        else:
            stored_u8 = np.asarray(self._convert(frame, "rgb24"), np.uint8)  # h w c
        matrix = self._display_matrix(frame)
        return stored_u8 if matrix is None else turn_upright(stored_u8, matrix)

    def is_upright(self, frame: VideoFrame) -> bool:
        """Whether a frame has the size of all, and is neither turned nor mirrored."""
        self._stored_size = self._stored_size or (frame.width, frame.height)
        a, b, c, d = self._display_matrix(frame) or (1, 0, 0, 1)
        return self._stored_size == (frame.width, frame.height) and a > 0 and d > 0 and b == c == 0

    def _display_matrix(self, frame: VideoFrame) -> DisplayMatrix | None:
        if self._rotation != frame.rotation:  # side data keeps its frame alive, so it is not read every time
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        return self._matrix

    def _convert(self, frame: VideoFrame, pix_fmt: str) -> NDArray[Any]:
        assert self._stored_size is not None
        # One thread: the stages of `sync` already run side by side, and `preprocess` has a worker per core.
        rgb = self._reformatter.reformat(
            frame,
            *self._stored_size,
            pix_fmt,
            src_colorspace=matrix_of(frame.colorspace),
            interpolation=EXACT_COLOUR,
            threads=1,
        )
        return rgb.to_ndarray()


def over_background(rgb_u8: NDArray[np.uint8], alpha_u8: NDArray[np.uint8]) -> FrameImage:
    """Colours (h w c) with opacity (h w) on `BACKGROUND`."""
    if int(alpha_u8.min()) == 255:
        return np.ascontiguousarray(rgb_u8)
    colour, alpha = rgb_u8.astype(np.uint16), alpha_u8[..., None].astype(np.uint16)
    return np.asarray((colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255, np.uint8)


def tone_map(rgb_u16: NDArray[np.uint16], trc: int) -> FrameImage:
    """HDR pixels (h w c), BT.2020 with PQ or HLG, to BT.709 with 8 bits.

    Reference white, 203 cd/m2, becomes 90 % of SDR's peak; what is brighter is compressed above a knee.

    Source: ITU-R BT.2100 (PQ, HLG), BT.2087 (primaries), BT.2408 (reference white).
    """
    light = _light_of(trc)[rgb_u16 >> 4] @ _BT709_FROM_BT2020.T  # h w c, 1 = reference white
    peak = np.maximum(light.max(2, keepdims=True), 1e-6)
    # The largest component sets the gain of all three, so that the hue of skin stays.
    light = np.clip(light * (_compressed(peak) / peak), 0, 1)
    return np.asarray(_GAMMA_709[np.rint(light * 4095).astype(np.uint16)], np.uint8)


def _compressed(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear up to the knee, then towards 1 at the peak of the brightest masters, 1000 cd/m2."""
    knee, white, peak = 0.6, 0.9, 1000 / 203
    over = np.clip((light * white - knee) / (peak * white - knee), 0, 1)
    bent = knee + (1 - knee) * (1 - (1 - over) ** _KNEE_POWER)
    return np.where(light * white <= knee, light * white, bent).astype(np.float32)


# Makes the slope one at the knee: d/dx of the curve is (1 - knee) * power / (peak * white - knee).
_KNEE_POWER = (1000 / 203 * 0.9 - 0.6) / 0.4
_BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LEVELS = np.arange(4096, dtype=np.float64) / 4095
_GAMMA_709 = np.rint(
    255 * np.where(_LEVELS < 0.018, 4.5 * _LEVELS, 1.099 * np.maximum(_LEVELS, 1e-9) ** 0.45 - 0.099)
).astype(np.uint8)


@lru_cache(maxsize=2)
def _light_of(trc: int) -> NDArray[np.float32]:
    """Light for each of 4096 code values, in reference whites."""
    if trc == PQ:
        power = _LEVELS ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        return np.asarray(light * 10_000 / 203, np.float32)
    low = _LEVELS**2 / 3
    high = (np.exp((_LEVELS - 0.55991073) / 0.17883277) + 0.28466892) / 12
    scene = np.where(_LEVELS <= 0.5, low, high)
    # The display of 1000 cd/m2 that HLG is made for has a system gamma of 1.2.
    return np.asarray(scene**1.2 * 1000 / 203, np.float32)


def display_matrix(frame: VideoFrame) -> DisplayMatrix | None:
    """The frame's display matrix, None where it has none. Reading it keeps the frame alive for a while."""
    _name_all_side_data()
    side_data = cast(Mapping[str, Buffer], frame.side_data)
    if "DISPLAYMATRIX" not in side_data:
        return None
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    return a, b, c, d


@lru_cache(maxsize=1)
def _name_all_side_data() -> None:
    """Let PyAV read frames whose side data has types that it has no names for, such as EXIF (31).

    Its enum is closed, FFmpeg's list is not: with one unknown type no side data could be read at all.
    Source: PyAV 18.1; PyAV-Org/PyAV pull request 2392 adds the names that were missing then.
    """

    def unknown(kind: Any, value: object) -> Any:
        member: Any = object.__new__(kind)
        member._value_, member._name_ = value, f"UNKNOWN_{value}"
        return member

    SideDataType._missing_ = classmethod(unknown)  # type: ignore[assignment]


def turn_upright(stored_u8: FrameImage, matrix: DisplayMatrix) -> FrameImage:
    """Apply the display matrix to a picture (h w c): quarter turns and mirrors.

    Source: ITU-T H.264 / ISO 14496-12 `tkhd` matrix, row vectors: (x', y') = (a·x + c·y, b·x + d·y).
    """
    a, b, c, d = matrix
    if abs(a) < abs(b):
        stored_u8, a, d = stored_u8.swapaxes(0, 1), c, b  # w h c
    if a < 0:
        stored_u8 = stored_u8[:, ::-1]
    if d < 0:
        stored_u8 = stored_u8[::-1]
    return np.ascontiguousarray(stored_u8)


def deinterlaced(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Make whole pictures of interlaced frames, one for each; a stream that begins progressive passes.

    Source: FFmpeg's bwdif, which leaves frames alone that are not marked as interlaced.
    """
    graph: Graph | None = None
    times: deque[int | None] = deque()
    for count, frame in enumerate(frames):
        if count == 0 and frame.interlaced_frame:
            graph = Graph()
            steps = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
                ),
                graph.add("bwdif", "mode=send_frame:deint=interlaced"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*steps).configure()
        if graph is None:
            yield frame
            continue
        times.append(frame.pts)
        graph.push(frame)
        yield from _pulled(graph, times)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, times)


def _pulled(graph: Graph, times: deque[int | None]) -> Iterator[VideoFrame]:
    while times:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        frame = cast(VideoFrame, frame)
        frame.pts = times.popleft()  # the filter counts in half ticks
        yield frame


def labelled(rgb_u8: FrameImage, text: str) -> FrameImage:
    """The picture (h w c) with a text on a dark ground in its lower left corner; itself without one."""
    if not text:
        return rgb_u8
    height, width = rgb_u8.shape[:2]
    scale = max(0.4, height / 900)
    thick = max(1, round(scale * 1.5))
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    scale *= min(1.0, 0.9 * width / max(1, wide))
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    edge = max(2, round(height / 60))
    at = (2 * edge, height - 2 * edge - below)
    drawn = rgb_u8.copy()
    ground = drawn[at[1] - high - edge : at[1] + below + edge, edge : 3 * edge + wide]
    ground //= 3
    cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return drawn
