"""Records that pass between the parts: frames, sound, faces and the geometry of a crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes

FrameImage = NDArray[np.uint8]  # (h w c), RGB, 0..255

# What a denoising network predicts and which timesteps are visited, in the words of diffusers.
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture of a video, upright (rotation applied).

    rgb_u8  (h w c) RGB
    index   position from the start of the file, 0 first
    time_s  when it is shown, from the first frame of the file
    source  its `index` where the file was read, once it is shown at another position; None: the same
    """

    rgb_u8: FrameImage
    index: int
    time_s: float
    source: int | None = None


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
