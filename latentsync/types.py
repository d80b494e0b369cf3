"""Records that pass between the parts: frames, sound, faces and the geometry of a crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes

FrameImage = NDArray[np.uint8]  # (h w c), RGB, 0..255

# What a denoising network predicts and which timesteps are visited, in the words of diffusers.
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]


class Picture(Protocol):
    """RGB pixels (h w c) of a frame: an array, or something that makes RGB of the rectangle asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, region: tuple[slice, slice], /) -> FrameImage: ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture of a video, upright (rotation applied).

    picture  (h w c) RGB, perhaps not yet converted
    index    position from the start of the file, 0 first
    time_s   when it is shown, from the first frame of the file
    source   its `index` where the file was read, once it is shown at another position; None: the same
    """

    picture: Picture
    index: int
    time_s: float
    source: int | None = None

    @property
    def rgb_u8(self) -> FrameImage:
        """The whole picture (h w c) in RGB, converted anew each time where it is not an array."""
        return whole(self.picture)


@dataclass(frozen=True, slots=True)
class Patched:
    """A picture of which a rectangle was replaced by other pixels (h w c), which may be none.

    left, top  of the rectangle, in pixels of the picture
    """

    picture: Picture
    left: int
    top: int
    patch_u8: FrameImage

    @property
    def shape(self) -> tuple[int, ...]:
        return self.picture.shape

    @property
    def rgb_u8(self) -> FrameImage:
        """The whole picture (h w c) in RGB: a copy."""
        copied = np.array(whole(self.picture))
        copied[self.rows, self.columns] = self.patch_u8
        return copied

    @property
    def rows(self) -> slice:
        """Of the rectangle."""
        return slice(self.top, self.top + self.patch_u8.shape[0])

    @property
    def columns(self) -> slice:
        """Of the rectangle."""
        return slice(self.left, self.left + self.patch_u8.shape[1])


def unpatched(picture: Picture) -> Patched:
    """The picture as it is."""
    return Patched(picture, 0, 0, np.zeros((0, 0, 3), np.uint8))


def whole(picture: Picture) -> FrameImage:
    """All pixels (h w c) of a picture in RGB; an array is given back itself."""
    return picture if isinstance(picture, np.ndarray) else picture[:, :]


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """Mono speech. `samples` is (n,) float32 in -1..1."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True, slots=True)
class Face:
    """A face in one frame.

    box     (4,) left, top, right, bottom in pixels
    score   0..1, how sure the detector is
    points  (68, 2) x, y in pixels in the usual 68-point order; from a detector (5, 2): eyes, nose, mouth
    """

    box: NDArray[np.float32]
    score: float
    points: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AffineFrame:
    """Where the aligned crop of one frame lies.

    crop_from_frame  (2, 3) float64 similarity from frame pixels to pixels of the upright window (75:100)
    resolution       side of the square crop in pixels, 256 or 512 (128 for small models)
    """

    crop_from_frame: NDArray[np.float64]
    resolution: int

    def __post_init__(self) -> None:
        expect_axes(self.crop_from_frame, "h w", h=2, w=3)
