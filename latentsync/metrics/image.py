"""Metrics of single pictures: SSIM, PSNR, LPIPS, FID, and flicker between two of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latentsync.faces.align import mouth_mask
from latentsync.metrics.lips import LEAST_SILENT_STEPS, silent_frames
from latentsync.metrics.metric import (
    ClipMetric,
    MetricSetup,
    Missing,
    Need,
    ScoredClip,
    SetMetric,
    Side,
    Value,
)
from latentsync.metrics.networks import exactly, load_inception, load_lpips, loaded_once, pictures_unit

BATCH_FRAMES = 16
INCEPTION_PX = 299
INCEPTION_WIDTH = 2048
PSNR_LIMIT_DB = 100.0  # of identical pictures, so that a mean over clips stays a number

Crops = NDArray[np.uint8]  # (f h w c)
NO_REFERENCE = Missing("no_reference", "there is no video with the same speech")


@dataclass(frozen=True, slots=True)
class Ssim(ClipMetric):
    """Structural similarity, of whole crops and of the pixels of the mouth: the mean over frames.

    Source: Wang et al. (2004) as scikit-image does it by default, with a 7 px box window.
    """

    name: ClassVar[str] = "ssim"
    values: ClassVar[tuple[Value, ...]] = (Value("ssim", "", "higher"), Value("ssim_mouth", "", "higher"))
    needs: ClassVar[tuple[Need, ...]] = ("real",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        from skimage.metrics import structural_similarity

        pairs = _pairs(clip)
        if isinstance(pairs, Missing):
            return pairs
        rows, columns = mouth_box(clip.side_px)
        found = []
        for made, real in zip(*pairs, strict=True):
            whole, by_pixel = structural_similarity(made, real, channel_axis=-1, data_range=255, full=True)
            found.append((whole, by_pixel[rows, columns].mean()))
        return dict(zip(("ssim", "ssim_mouth"), np.mean(found, axis=0).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Psnr(ClipMetric):
    """Peak signal to noise ratio of all frames of a clip together, of whole crops and of the mouth.

    Source: the usual definition; ours: one mean squared error per clip, so that one equal frame is not
    infinite, and 100 dB at most.
    """

    name: ClassVar[str] = "psnr"
    values: ClassVar[tuple[Value, ...]] = (Value("psnr", "dB", "higher"), Value("psnr_mouth", "dB", "higher"))
    needs: ClassVar[tuple[Need, ...]] = ("real",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        pairs = _pairs(clip)
        if isinstance(pairs, Missing):
            return pairs
        made, real = pairs
        rows, columns = mouth_box(clip.side_px)
        return {
            "psnr": _psnr(made, real),
            "psnr_mouth": _psnr(made[:, rows, columns], real[:, rows, columns]),
        }


@dataclass(frozen=True, slots=True)
class Lpips(ClipMetric):
    """Perceptual distance of VGG-16 features: the mean over frames.

    Source: Zhang et al. (2018), version 0.1 with calibrated linear layers, crops at their own size in -1..1.
    """

    name: ClassVar[str] = "lpips"
    values: ClassVar[tuple[Value, ...]] = (Value("lpips", "", "lower"),)
    needs: ClassVar[tuple[Need, ...]] = ("real",)
    weights: ClassVar[str] = "vgg-lpips"
    network: Callable[[], nn.Module]
    device: torch.device
    batch_frames: int = BATCH_FRAMES

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        load = loaded_once(cls.weights, lambda path: load_lpips(path, device=setup.device))
        return cls(load, setup.device)

    @exactly()
    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        pairs = _pairs(clip)
        if isinstance(pairs, Missing):
            return pairs
        distances = []
        for batch in _batches(pairs, self.batch_frames):
            made, real = (pictures_unit(part, device=self.device) * 2 - 1 for part in batch)
            distances.append(self.network()(made, real).flatten().cpu().double())
        return {"lpips": float(torch.cat(distances).mean())}


@dataclass(frozen=True, slots=True)
class Fid(SetMetric):
    """Fréchet distance between Inception features of all frames of two sets.

    Source: Heusel et al. (2017) by pytorch-fid, which enlarges crops to 299 px bilinearly.
    """

    name: ClassVar[str] = "fid"
    values: ClassVar[tuple[Value, ...]] = (Value("fid", "", "lower"),)
    weights: ClassVar[str] = "inception"
    resize: ClassVar[Literal["plain", "clean"]] = "plain"
    network: Callable[[], nn.Module]
    device: torch.device
    batch_frames: int = BATCH_FRAMES
    width: int = INCEPTION_WIDTH

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        load = loaded_once(cls.weights, lambda path: load_inception(path, device=setup.device))
        return cls(load, setup.device)

    @exactly()
    def features(self, clip: ScoredClip, side: Side) -> NDArray[np.float64]:
        found = [
            self._embed(pictures_unit(crops_u8, device=self.device))
            for (crops_u8,) in _batches((clip.crops_u8(side),), self.batch_frames)
        ]
        return np.concatenate(found) if found else np.zeros((0, self.width))

    def _embed(self, images: Tensor) -> NDArray[np.float64]:
        pooled = self.network()(resized(images, self.resize))[0]
        return np.asarray(pooled.flatten(1).cpu().double().numpy())


@dataclass(frozen=True, slots=True)
class CleanFid(Fid):
    """FID of crops enlarged with Pillow's bicubic filter, in float.

    Source: Parmar et al. (2022).
    """

    name: ClassVar[str] = "fid_clean"
    values: ClassVar[tuple[Value, ...]] = (Value("fid_clean", "", "lower"),)
    resize: ClassVar[Literal["plain", "clean"]] = "clean"


@dataclass(frozen=True, slots=True)
class Flicker(ClipMetric):
    """How differently the picture changes from frame to frame than in the input video, in grey levels.

    The mean of |(mₜ − mₜ₋₁) − (sₜ − sₜ₋₁)| over pixels and channels, m the generated and s the input crop:
    `flicker` over the whole crop where both frames are silent, `flicker_kept` over all frames where the mask
    keeps the input. Without silence there is only the latter.

    Source: ours, because change that the input has too is motion, not flicker.
    """

    name: ClassVar[str] = "flicker"
    values: ClassVar[tuple[Value, ...]] = (
        Value("flicker", "of 255", "lower", f"no_silence: silent steps < {LEAST_SILENT_STEPS}"),
        Value("flicker_kept", "of 255", "lower"),
    )
    needs: ClassVar[tuple[Need, ...]] = ("input",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.input_u8 is None:
            return Missing("no_input", "the crops of the input video are not known")
        length = min(len(clip.made_u8), len(clip.input_u8))
        if length < 2:
            return Missing("too_short", f"{length} frames < 2")
        # A resized mask has values between 0 and 1 along its edge.
        is_kept = mouth_mask(clip.side_px) >= 0.5
        is_silent = silent_frames(clip.speech, frames=length)
        kept, silent = [], []
        for frame in range(1, length):
            made, own = (
                crops_u8[frame].astype(np.int16) - crops_u8[frame - 1]  # of uint8, differences would wrap
                for crops_u8 in (clip.made_u8, clip.input_u8)
            )
            apart = np.abs(made - own)
            kept.append(apart[is_kept].mean())
            if is_silent[frame] and is_silent[frame - 1]:
                silent.append(apart.mean())
        scores = {"flicker": float(np.mean(silent))} if len(silent) >= LEAST_SILENT_STEPS else {}
        return scores | {"flicker_kept": float(np.mean(kept))}


def resized(images: Tensor, resize: Literal["plain", "clean"]) -> Tensor:
    """Pictures (n 3 h w) in 0..1 at the size that Inception takes."""
    size = (INCEPTION_PX, INCEPTION_PX)
    if resize == "plain":
        # As pytorch-fid does it: corners not aligned, no smoothing.
        return functional.interpolate(images, size, mode="bilinear", align_corners=False)
    # Bicubic overshoots at edges, so the result is clamped.
    return functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(
        0, 1
    )


@lru_cache(maxsize=4)
def mouth_box(side_px: int) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around what the mask generates, in a crop of `side_px`."""
    generated = mouth_mask(side_px) < 0.5
    rows, columns = (np.flatnonzero(generated.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _psnr(made: Crops, real: Crops) -> float:
    # Frame by frame, because float64 copies of a whole clip would take gigabytes.
    squares = [np.mean((one.astype(np.float64) - other) ** 2) for one, other in zip(made, real, strict=True)]
    error = float(np.mean(squares))
    return min(PSNR_LIMIT_DB, 10 * math.log10(255**2 / error)) if error else PSNR_LIMIT_DB


def _pairs(clip: ScoredClip) -> tuple[Crops, Crops] | Missing:
    """Generated and reference crops of the frames that both have."""
    if clip.real_u8 is None:
        return NO_REFERENCE
    length = min(len(clip.made_u8), len(clip.real_u8))
    return (clip.made_u8[:length], clip.real_u8[:length]) if length else Missing("too_short", "0 frames")


def _batches(stacks: tuple[Crops, ...], frames: int) -> list[tuple[Crops, ...]]:
    """Views of each stack, `frames` at a time."""
    starts = range(0, len(stacks[0]), frames)
    return [tuple(stack[first : first + frames] for stack in stacks) for first in starts]
