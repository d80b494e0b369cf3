"""Streamed statistics of features, the Fréchet distance between them, and intervals over clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.axes import expect_axes
from latentsync.runtime import integer_from

Vector = NDArray[np.float64]  # (d,)
Matrix = NDArray[np.float64]  # (d d)
SEED = 1247
RESAMPLES = 10_000
RESAMPLED_AT_ONCE = 500


@dataclass(slots=True)
class FeatureStatistics:
    """Count, mean and spread of features, added up as they come: memory depends on their width only.

    count  how many features were added
    mean   (d,) float64
    outer  (d d) float64, the sum of outer products of deviations from the mean
    """

    count: int
    mean: Vector
    outer: Matrix

    @classmethod
    def empty(cls, width: int) -> FeatureStatistics:
        """Statistics of nothing yet, for features of `width` numbers."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(self, features: NDArray[np.floating]) -> None:
        """Take in features (n d).

        Source: the pairwise update of Chan, Golub and LeVeque (1979), which loses no digits to large means.
        """
        expect_axes(features, "n d", d=len(self.mean))
        if len(features) == 0:
            return
        count = self.count + len(features)
        mean = features.mean(0, dtype=np.float64)
        apart = (mean - self.mean) * np.sqrt(self.count * len(features) / count)
        rows = np.vstack([features - mean, apart])
        self.outer += rows.T @ rows
        self.mean = self.mean + (mean - self.mean) * (len(features) / count)
        self.count = count

    def merge(self, other: FeatureStatistics) -> None:
        """Take in the statistics of other features of the same width."""
        count = self.count + other.count
        if other.count == 0:
            return
        apart = other.mean - self.mean
        self.outer += other.outer
        self.outer += np.outer(apart, apart) * (self.count * other.count / count)
        self.mean = self.mean + apart * (other.count / count)
        self.count = count

    @property
    def covariance(self) -> Matrix:
        """The unbiased covariance (d d)."""
        if self.count < 2:
            raise ValueError(f"a covariance needs 2 features, got {self.count}")
        return self.outer / (self.count - 1)


def frechet_distance(made: FeatureStatistics, real: FeatureStatistics) -> float:
    """The Fréchet distance |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½) of two normal distributions, 0 or more.

    Source: Dowson and Landau (1982); as a score of pictures, Heusel et al. (2017). Ours: the trace of the
    root is the sum of the singular values of √C₁ √C₂, which is real, symmetric in both, and exact where
    fewer features than their width make a covariance singular.
    """
    covariances = made.covariance, real.covariance
    roots = [_square_root(covariance) for covariance in covariances]
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    spread = sum(float(np.trace(covariance)) for covariance in covariances) - 2 * float(shared)
    # Rounding can make the distance of equal sets slightly negative.
    return max(0.0, float(np.sum((made.mean - real.mean) ** 2)) + spread)


def _square_root(covariance: Matrix) -> Matrix:
    """The symmetric root; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)  # symmetric: exact and real, unlike scipy's sqrtm
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean over clips and its bounds; all NaN where no clip has a score.

    clips  how many have one
    """

    mean: float
    low: float
    high: float
    clips: int


def bootstrap_interval(values: Iterable[float], *, name: str, level: float = 0.95) -> Interval:
    """The mean of the clips' scores and the percentile bootstrap interval around it.

    Args:
        values: one score per clip, in any order; NaN for none.
        name: of the random stream, so that another metric changes no interval of this one.
        level: share of resamples whose mean lies in the interval.

    Source: Efron (1979); 10,000 resamples of clips, not of frames, which depend on each other.
    """
    # Sorted, so that the order of the clips changes no interval.
    known = np.sort([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(integer_from(f"{SEED}/bootstrap/{name}"))
    # Some resamples at a time, because all draws at once would take gigabytes for large sets.
    means = np.concatenate(
        [
            known[generator.integers(len(known), size=(RESAMPLED_AT_ONCE, len(known)))].mean(1)
            for _ in range(RESAMPLES // RESAMPLED_AT_ONCE)
        ]
    )
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(known.mean()), float(low), float(high), len(known))
