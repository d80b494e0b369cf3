"""Seventh step: measures the picture quality of a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.models.hyperiqa import PICTURE_PX
from latentsync.preprocess.step import Clip, Drop, QualityFacts
from latentsync.recipe.preprocess import Quality
from latentsync.types import FrameImage
from latentsync.weights.catalog import find_entry
from latentsync.weights.hub import is_present, need
from latentsync.weights.judges import hyperiqa_from_released

_BLOCK_PX = 8  # side of the blocks in which video is compressed
_SMALLEST_STEP = 0.25  # grey levels: keeps the ratio at 1 for a picture without detail
_WHOLE_PX = 256  # side of the crops that HyperIQA's threshold was chosen for

Measure = Callable[[FrameImage], float]


@dataclass
class MeasureQuality:
    """Drops clips by the mean quality of their first, middle and last picture.

    HyperIQA is the paper's measure; 40 of 100 is the limit of the official pipeline. Without its weights,
    sharpness and blockiness are measured instead, with limits of their own: they notice blur and blocks only.
    """

    quality: Quality
    device: str = "cpu"
    name: str = "measure_quality"
    _hyperiqa: Measure | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        wanted = self.quality.measure
        if wanted == "hyperiqa" or (wanted == "auto" and has_hyperiqa()):
            self._hyperiqa = _load_hyperiqa(self.device)

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        crops_u8 = clip.crops_u8
        if crops_u8 is None:
            raise ValueError("there are no crops to measure")
        chosen = [crops_u8[frame] for frame in (0, len(crops_u8) // 2, len(crops_u8) - 1)]
        if self._hyperiqa is not None:
            facts = QualityFacts(float(np.mean([self._hyperiqa(one) for one in chosen])), "hyperiqa")
        else:
            sharp, blocky = np.mean([(sharpness(one), blockiness(one)) for one in chosen], axis=0)
            facts = QualityFacts(float(sharp), "sharpness", float(blocky))
        yield self._drop(facts, replace(clip, crops_u8=None, quality=facts)) or replace(clip, quality=facts)

    def _drop(self, facts: QualityFacts, known: Clip) -> Drop | None:
        limits = self.quality
        needed = limits.min_hyperiqa if facts.measure == "hyperiqa" else limits.min_sharpness
        if facts.value < needed:
            return Drop("low_quality", f"{facts.measure} {facts.value:.3g} < {needed:g}", known)
        if facts.blockiness is not None and facts.blockiness > limits.max_blockiness:
            return Drop(
                "low_quality", f"blockiness {facts.blockiness:.2f} > {limits.max_blockiness:g}", known
            )
        return None


def sharpness(rgb_u8: FrameImage) -> float:
    """How much fine detail a picture (h w c) has for its contrast: 0 is none, good crops have 0.01 to 0.03.

    Source: ours; the standard deviation of the Laplacian (Pech-Pacheco et al. 2000) over that of the picture,
    so that a dark or flat picture does not count as blurred. Noise and blocks count as detail.
    """
    grey = _grey(rgb_u8)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / (8 * max(1.0, float(grey.std()))))


def blockiness(rgb_u8: FrameImage) -> float:
    """Mean step between neighbours across the 8 px grid over that elsewhere, in the worse direction.

    1 is none. Cropping turns and scales the grid of the source, so this notices blocks mostly in sources
    that were cropped to size before.

    Source: ours, after the blocking measure of Wang, Bovik and Evans (2000).
    """
    grey = _grey(rgb_u8)
    return max(_step_ratio(np.abs(np.diff(grey, axis=axis)).mean(1 - axis)) for axis in (0, 1))


def _step_ratio(steps: NDArray[np.float32]) -> float:
    usable = len(steps) // _BLOCK_PX * _BLOCK_PX
    if not usable:
        return 1.0
    # Cropping moves the grid, so every offset may be the one of the block edges.
    by_offset = steps[:usable].reshape(-1, _BLOCK_PX).mean(0)
    worst = float(by_offset.max())
    rest = (float(by_offset.sum()) - worst) / (_BLOCK_PX - 1)
    return (worst + _SMALLEST_STEP) / (rest + _SMALLEST_STEP)


def _grey(rgb_u8: FrameImage) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY), np.float32)


def has_hyperiqa() -> bool:
    """Whether the weights of HyperIQA are in the cache."""
    return is_present(find_entry("hyperiqa"))


def _load_hyperiqa(device: str) -> Measure:
    """HyperIQA as a function from a picture (h w c) to 0..100.

    Source: the official filter measures the middle 224 px of a crop of 256 px; others are resized to that.
    """
    network = hyperiqa_from_released(need("hyperiqa"), device=device)

    @torch.inference_mode()
    def measure(rgb_u8: FrameImage) -> float:
        resized = cv2.resize(rgb_u8, (_WHOLE_PX, _WHOLE_PX), interpolation=cv2.INTER_AREA)
        edge = (_WHOLE_PX - PICTURE_PX) // 2
        middle = np.ascontiguousarray(resized[edge:-edge, edge:-edge])
        pictures_unit = torch.from_numpy(middle).movedim(-1, 0)[None].to(device) / 255  # b c h w
        return float(network(pictures_unit)[0])

    return measure
