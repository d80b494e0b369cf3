"""Axis letters: shapes that check themselves, the reshapes and the range that networks need.

b batch, f frames, c channels, h rows, w columns, t audio steps, n tokens or landmarks, d features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from latentsync.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


class Shaped(Protocol):
    """A tensor, an array or a picture."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def expect_axes(tensor: Shaped, axes: str, **sizes: int) -> None:
    """Refuse `tensor` unless it has one dimension per letter of `axes`, with the stated sizes.

    Raises:
        ShapeError: the number of dimensions or a stated size differs.

    >>> import numpy
    >>> expect_axes(numpy.zeros((1, 4, 16, 32, 32)), "b c f h w", c=4)
    """
    letters = axes.split()
    if len(tensor.shape) != len(letters):
        raise ShapeError(f"expected axes ({axes}), got a tensor of shape {tuple(tensor.shape)}")
    for letter, size in zip(letters, tensor.shape, strict=True):
        if size != sizes.get(letter, size):
            raise ShapeError(f"axis {letter} of ({axes}) must be {sizes[letter]}, got {size}")


def frames_to_batch(video: Tensor) -> Tensor:
    """(b c f h w) -> (b·f c h w), so that a per-image network can take it."""
    expect_axes(video, "b c f h w")
    return video.movedim(2, 1).flatten(0, 1)  # b·f c h w


def batch_to_frames(images: Tensor, *, frames: int) -> Tensor:
    """(b·f c h w) -> (b c f h w), the inverse of `frames_to_batch`."""
    expect_axes(images, "b c h w")
    if len(images) % frames:
        raise ShapeError(f"{len(images)} images are not a whole number of windows of {frames} frames")
    video: Tensor = images.unflatten(0, (-1, frames)).movedim(1, 2)  # b c f h w
    return video


def to_pm1(images_u8: Tensor) -> Tensor:
    """Pixels 0..255 -> -1..1, the range of all networks here; floating-point input keeps its number format.

    Source: as released; black is exactly -1 and white exactly 1.
    """
    floats = images_u8 if images_u8.is_floating_point() else images_u8.float()
    return floats / 127.5 - 1


def to_levels(images_pm1: Tensor) -> Tensor:
    """Pixels -1..1 -> 0..255 as floats, clipped but not rounded."""
    return ((images_pm1 + 1) * 127.5).clamp(0, 255)


def to_u8(images_pm1: Tensor) -> Tensor:
    """Pixels -1..1 -> 0..255 as uint8, rounded to the nearest."""
    return to_levels(images_pm1).round().byte()
