"""Frames as their decoder stores them: planes of brightness and colour, of which a region becomes RGB."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from latentsync.media.pixels import EXACT_COLOUR, HLG, PQ, RGBConverter, matrix_of
from latentsync.types import FrameImage, Patched, Picture

# Planar, without alpha; the bytes of a sample.
_SAMPLE_BYTES = {
    **dict.fromkeys(("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"), 1),
    **{f"yuv{chroma}p{bits}le": 2 for chroma in (420, 422, 444) for bits in (10, 12)},
}
_FULL = 2  # ITU-T H.273
_EDGE_PX = 8  # around a region: colour is interpolated, and swscale converts less than 8 columns otherwise
_SEED_PX = 8
_TAPS_PX = 8  # around a patch: the conversion of its colours reads that far
_AROUND = 1 / 8  # of a region's sides that is converted with it: what is asked for next overlaps it
TO_STORED = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_of_thread = threading.local()

Bounds = tuple[int, int, int, int]  # left, top, right, bottom, half open


class Planes:
    """A decoded picture. Slices of it are RGB (h w c), the same values as those of the whole picture in RGB.

    The decoder may still need what it holds: nothing is written to it.
    """

    def __init__(self, frame: VideoFrame, seed: VideoFrame) -> None:
        """`seed` is a tiny frame with the properties of `frame`; see `_of_size`."""
        self._seed = seed
        self.pix_fmt = frame.format.name
        self.shape = (frame.height, frame.width, 3)
        self.matrix = matrix_of(frame.colorspace)
        self.is_full_range = frame.color_range == _FULL or self.pix_fmt.startswith("yuvj")
        self._tags = frame.colorspace, frame.color_range
        self._planes = _arrays(frame)
        self._kept: tuple[Bounds, FrameImage] | None = None

    def __getitem__(self, region: tuple[slice, slice], /) -> FrameImage:
        height, width, _ = self.shape
        top, bottom, step_y = region[0].indices(height)
        left, right, step_x = region[1].indices(width)
        if right <= left or bottom <= top:
            return np.zeros((max(0, bottom - top), max(0, right - left), 3), np.uint8)
        if (step_y, step_x) != (1, 1):
            return self._sampled(np.arange(top, bottom, step_y), np.arange(left, right, step_x))
        return self._region((left, top, right, bottom))

    def copy_as(self, pix_fmt: str) -> VideoFrame:
        """A frame of its own with the same picture, which an encoder may keep."""
        height, width, _ = self.shape
        if self.pix_fmt.replace("yuvj", "yuv") == pix_fmt:
            frame = VideoFrame(width, height, pix_fmt)
            for target, source in zip(_arrays(frame), self._planes, strict=True):
                target[...] = source
            return frame
        return _reformatter().reformat(
            self._cut((0, 0, width, height)),
            format=pix_fmt,
            src_colorspace=self.matrix,
            dst_colorspace=self.matrix,
            dst_color_range=self._range,
            interpolation=TO_STORED,
            threads=1,
        )

    @property
    def _range(self) -> int:
        return _FULL if self.is_full_range else 1

    def _region(self, bounds: Bounds) -> FrameImage:
        if self._kept is None or not _is_within(bounds, self._kept[0]):
            wide = self._widened(bounds if self._kept is None else _union(bounds, self._kept[0]))
            self._kept = wide, self._converted(wide)
        (left, top, _, _), rgb_u8 = self._kept
        return rgb_u8[bounds[1] - top : bounds[3] - top, bounds[0] - left : bounds[2] - left]

    def _widened(self, bounds: Bounds) -> Bounds:
        left, top, right, bottom = bounds
        more_x, more_y = round((right - left) * _AROUND), round((bottom - top) * _AROUND)
        height, width, _ = self.shape
        return (
            max(0, left - more_x),
            max(0, top - more_y),
            min(width, right + more_x),
            min(height, bottom + more_y),
        )

    def _converted(self, bounds: Bounds) -> FrameImage:
        height, width, _ = self.shape
        left, top = (max(0, edge - _EDGE_PX) & ~1 for edge in bounds[:2])
        right = min(width, (bounds[2] + _EDGE_PX + 1) & ~1)
        bottom = min(height, (bounds[3] + _EDGE_PX + 1) & ~1)
        rgb_u8 = self._to_rgb(self._cut((left, top, right, bottom)))
        return rgb_u8[bounds[1] - top : bounds[3] - top, bounds[0] - left : bounds[2] - left]

    def _to_rgb(self, frame: VideoFrame) -> FrameImage:
        rgb = _reformatter().reformat(
            frame, format="rgb24", src_colorspace=self.matrix, interpolation=EXACT_COLOUR, threads=1
        )
        return np.asarray(rgb.to_ndarray(), np.uint8)

    def _cut(self, bounds: Bounds) -> VideoFrame:
        """A frame of its own with what lies within the bounds, of which left and top are even."""
        left, top, right, bottom = bounds
        frame = _of_size(self._seed, right - left, bottom - top)
        frame.colorspace, frame.color_range = self._tags
        height, width, _ = self.shape
        for target, source in zip(_arrays(frame), self._planes, strict=True):
            down, across = -(-height // source.shape[0]), -(-width // source.shape[1])
            rows, columns = target.shape
            target[...] = source[top // down :, left // across :][:rows, :columns]
        return frame

    def _sampled(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> FrameImage:
        """Pixels far apart, each with the colour of its own sample: nothing is interpolated."""
        height, width, _ = self.shape
        frame = VideoFrame(len(columns), len(rows), _without_subsampling(self.pix_fmt))
        frame.colorspace, frame.color_range = self._tags
        for target, source in zip(_arrays(frame), self._planes, strict=True):
            down, across = -(-height // source.shape[0]), -(-width // source.shape[1])
            target[...] = source[(rows // down)[:, None], columns // across]
        return self._to_rgb(frame)


class PictureConverter:
    """Turns decoded frames into pictures: into `Planes` where they can stay as they are, else into RGB.

    They cannot where they are turned, transparent, HDR, interlaced, or of another size than the first.
    """

    def __init__(self, size: tuple[int, int] | None = None, *, keeps_planes: bool) -> None:
        """`size` is width and height as stored, before rotation; None: those of the first frame."""
        self._rgb = RGBConverter(size)
        self._keeps_planes = keeps_planes
        self._seed: VideoFrame | None = None

    def __call__(self, frame: VideoFrame) -> Picture:
        if (
            self._keeps_planes
            and frame.format.name in _SAMPLE_BYTES
            and frame.color_trc not in (PQ, HLG)
            and not frame.interlaced_frame
            and self._rgb.is_upright(frame)
        ):
            if self._seed is None or self._seed.format.name != frame.format.name:
                self._seed = _of_size(frame, _SEED_PX, _SEED_PX)
            return Planes(frame, self._seed)
        return self._rgb(frame)


def patch(frame: VideoFrame, patched: Patched, stored: Callable[[FrameImage], VideoFrame]) -> None:
    """Replace the patch in a frame of the patched picture; a sample that no changed pixel has part in stays.

    Args:
        frame: of the same picture, in any planar format.
        stored: turns RGB (h w c) of even sides into a frame of that format.
    """
    height, width = patched.shape[:2]
    top, bottom = _even_bounds(patched.rows, height)
    left, right = _even_bounds(patched.columns, width)
    if bottom <= top or right <= left:
        return
    old_u8 = patched.picture[top:bottom, left:right]
    new_u8 = old_u8.copy()
    first_row, first_column = patched.top - top, patched.left - left
    rows, columns = patched.patch_u8.shape[:2]
    new_u8[first_row : first_row + rows, first_column : first_column + columns] = patched.patch_u8
    red, green, blue = cv2.split(cv2.absdiff(new_u8, old_u8))
    changed = red | green | blue  # h w, 0 where all three are as before
    for target, source in zip(_arrays(frame), _arrays(stored(new_u8)), strict=True):
        down, across = changed.shape[0] // source.shape[0], changed.shape[1] // source.shape[1]
        has_part = changed[::2] | changed[1::2] if down == 2 else changed
        has_part = has_part[:, ::2] | has_part[:, 1::2] if across == 2 else has_part
        region = target[top // down :, left // across :][: source.shape[0], : source.shape[1]]
        np.copyto(region, source, where=has_part > 0)


def _even_bounds(span: slice, size: int) -> tuple[int, int]:
    """The span with room for the taps of the conversion of colours, between even numbers."""
    if span.stop <= span.start:
        return 0, 0
    return max(0, span.start - _TAPS_PX) & ~1, min(size, (span.stop + _TAPS_PX + 1) & ~1)


def _arrays(frame: VideoFrame) -> list[NDArray[Any]]:
    """The planes (h w) of a frame, without the bytes that pad their rows; the frame lives as long as they."""
    dtype = np.uint8 if _SAMPLE_BYTES[frame.format.name] == 1 else np.uint16
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]  # type: ignore[call-overload]
        for plane in frame.planes
    ]


def _of_size(like: VideoFrame, width: int, height: int) -> VideoFrame:
    """A frame of another size with the format and properties of `like`, its pixels to be overwritten.

    One of them says where the samples of colour lie, which counts as they are interpolated, and which PyAV
    lets nobody set.
    """
    return _reformatter().reformat(like, width, height, interpolation=Interpolation.POINT, threads=1)


def _without_subsampling(pix_fmt: str) -> str:
    return pix_fmt.replace("420", "444").replace("422", "444")


def _reformatter() -> VideoReformatter:
    """This thread's: it holds tables for the sizes that it was used for last."""
    if not hasattr(_of_thread, "reformatter"):
        _of_thread.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _of_thread.reformatter
    return reformatter


def _is_within(inner: Bounds, outer: Bounds) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _union(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
