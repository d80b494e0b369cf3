"""NIQE: how natural pictures look, without a reference and without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes
from latentsync.files import sha256_of
from latentsync.metrics.metric import ClipMetric, Missing, ScoredClip, Value

TABLE = Path(__file__).with_name("niqe.json")  # written by benchmarks/niqe_table.py
PATCH_PX = 96
WIDTH = 36  # features of a patch: 18 at each of two scales
EVERY_FRAMES = 5  # neighbouring frames are nearly the same picture
LEAST_PATCHES = 8
BLUR_PX, BLUR_STD_PX = 7, 7 / 6
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = np.arange(0.2, 10.001, 0.001)  # of the distributions that are fitted

Patches = NDArray[np.float64]  # (n d)


class Naturalness(NamedTuple):
    """What natural pictures are like: mean (d) and covariance (d d) of the features of their patches."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Niqe(ClipMetric):
    """How far the generated crops are from sharp natural faces: 0 is as natural, more is worse.

    Source: NIQE of Mittal et al. (2013), with patches of 96 px. Ours: the table of natural pictures is made
    of sharp faces, because its authors' own is of any scene; one distance for each clip, from the patches of
    all frames. Numbers of other tables are not comparable.
    """

    name: ClassVar[str] = "niqe"
    values: ClassVar[tuple[Value, ...]] = (Value("niqe", "own table", "lower"),)

    @property
    def version(self) -> str:
        """Changes with the table, so that scores by another one are not taken for its."""
        return f"1-{sha256_of(TABLE)[:12]}"

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        found = [patch_features(crop) for crop in clip.made_u8[::EVERY_FRAMES]]
        patches = np.concatenate(found) if found else np.zeros((0, WIDTH))
        if len(patches) < LEAST_PATCHES:
            return Missing("too_short", f"{len(patches)} patches of {PATCH_PX} px < {LEAST_PATCHES}")
        return {"niqe": distance(describe(patches), natural())}


@cache
def natural() -> Naturalness:
    """The bundled table."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return Naturalness(np.array(table["mean"]), np.array(table["covariance"]))


def describe(patches: Patches) -> Naturalness:
    """Mean and covariance of the features of patches (n d)."""
    return Naturalness(patches.mean(0), np.cov(patches, rowvar=False))


def distance(one: Naturalness, other: Naturalness) -> float:
    """The Mahalanobis distance of both means, under the mean of both covariances.

    Source: Mittal et al. (2013), equation 10.
    """
    apart: NDArray[np.float64] = one.mean - other.mean
    # The pseudo-inverse: a still clip has fewer independent patches than features.
    inverse = np.linalg.pinv((one.covariance + other.covariance) / 2)
    return math.sqrt(max(0.0, float(apart @ inverse @ apart)))


def patch_features(picture_u8: NDArray[np.uint8], *, sharpest_share: float = 0.0) -> Patches:
    """The features (n 36) of the whole patches of a picture (h w c) in RGB, side by side.

    Args:
        sharpest_share: leave out patches less sharp than this share of the sharpest, as the table does.

    Source: Mittal et al. (2013): brightness normalised by its surroundings, products of neighbours, at two
    scales.
    """
    expect_axes(picture_u8, "h w c", c=3)
    grey = np.asarray(cv2.cvtColor(picture_u8, cv2.COLOR_RGB2GRAY), np.float64)
    rows, columns = (size // PATCH_PX for size in grey.shape)
    grey = grey[: rows * PATCH_PX, : columns * PATCH_PX]
    if not grey.size:
        return np.zeros((0, WIDTH))
    half = cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2), interpolation=cv2.INTER_AREA)
    found, sharpness = [], np.empty(0)
    for side_px, plane in ((PATCH_PX, grey), (PATCH_PX // 2, half)):
        normalised, deviation = _normalised(plane)
        found.append(np.stack([_features(patch) for patch in _patches(normalised, side_px)]))  # n d
        if side_px == PATCH_PX:
            sharpness = np.array([patch.mean() for patch in _patches(deviation, side_px)])
    features: Patches = np.concatenate(found, axis=1)
    chosen: Patches = features[sharpness >= sharpest_share * sharpness.max()]
    return chosen


def _normalised(plane: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness (h w) without its local mean, in local standard deviations; and these."""

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        size = (BLUR_PX, BLUR_PX)
        return np.asarray(cv2.GaussianBlur(values, size, BLUR_STD_PX, borderType=cv2.BORDER_REPLICATE))

    mean = blurred(plane)
    deviation = np.sqrt(np.abs(blurred(plane**2) - mean**2))
    return (plane - mean) / (deviation + 1), deviation


def _patches(plane: NDArray[np.float64], side_px: int) -> Iterator[NDArray[np.float64]]:
    for row in range(0, plane.shape[0], side_px):
        for column in range(0, plane.shape[1], side_px):
            yield plane[row : row + side_px, column : column + side_px]


def _features(patch: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 18 features of a patch (h w) at one scale."""
    shape, left, right, _ = _fit(patch)
    found = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right, mean = _fit(patch * np.roll(patch, shift, (0, 1)))
        found += [shape, mean, left, right]
    return np.array(found)


def _fit(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Fit an asymmetric generalised Gaussian: its shape, its scales to the left and right, and its mean.

    Source: Lasmar et al. (2009), by moments; the shape is looked up in a table.
    """
    shapes, ratios, gammas = _ratios()
    left, right = (
        np.sqrt(np.mean(side**2)) if side.size else 1e-6 for side in (values[values < 0], values[values > 0])
    )
    asymmetry = left / max(right, 1e-6)
    ratio = np.mean(np.abs(values)) ** 2 / max(float(np.mean(values**2)), 1e-12)
    wanted = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    index = int(np.abs(ratios - wanted).argmin())
    one, two, three = gammas[:, index]
    scale = np.sqrt(one / three)
    mean = (right - left) * scale * two / one
    return float(shapes[index]), float(left * scale), float(right * scale), float(mean)


@cache
def _ratios() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shapes, the moment ratio of each, and the gamma function at 1, 2 and 3 over each shape."""
    from scipy.special import gamma

    gammas = np.stack([gamma(number / SHAPES) for number in (1, 2, 3)])
    return SHAPES, gammas[1] ** 2 / (gammas[0] * gammas[2]), gammas
