"""Steadies the crop over time without delay: the whole similarity is smoothed, not its points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.faces.align import fit_similarity, template


@dataclass(frozen=True, slots=True)
class Pose:
    """A similarity as four numbers that may be averaged.

    values  (4,) x and y in the frame of the template's centre, log of the scale, angle in radians
    """

    values: NDArray[np.float64]
    time_s: float


def pose_of(control: NDArray[np.floating], time_s: float, *, near_rad: float = 0.0) -> Pose:
    """The pose of a frame from its control points (3, 2), its angle within half a turn of `near_rad`."""
    matrix = fit_similarity(control, 256)
    centre = control.mean(0, dtype=np.float64)
    angle = np.arctan2(matrix[1, 0], matrix[0, 0])
    angle += 2 * np.pi * np.round((near_rad - angle) / (2 * np.pi))
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    return Pose(np.array([*centre, np.log(scale), angle]), time_s)


def similarity_of(values: NDArray[np.float64], resolution: int) -> NDArray[np.float64]:
    """The similarity (2, 3), window from frame, of a pose's four numbers."""
    scale = np.exp(values[2]) * resolution / 256
    cos, sin = scale * np.cos(values[3]), scale * np.sin(values[3])
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, template(resolution).mean(0) - turn @ values[:2]])


def smoothed(poses: list[Pose], time_s: float, *, sigma_s: float) -> NDArray[np.float64]:
    """The four numbers at `time_s`: a straight line fitted to the poses, Gaussian weights around that time.

    A line, not a mean, so that a steady motion is not pulled back at the ends of a shot, where all poses
    lie on one side. In the middle of a shot the two agree.
    """
    values = np.stack([pose.values for pose in poses])
    offset_s = np.array([pose.time_s for pose in poses]) - time_s
    weight = np.exp(-0.5 * (offset_s / sigma_s) ** 2)
    if weight.sum() < 1e-6:  # far from every pose: the nearest one
        return np.asarray(values[np.abs(offset_s).argmin()])
    weight /= weight.sum()
    mean_s, mean = weight @ offset_s, weight @ values
    spread = weight @ (offset_s - mean_s) ** 2
    if spread < 1e-9:
        return np.asarray(mean)
    slope = (weight * (offset_s - mean_s)) @ (values - mean) / spread
    return np.asarray(mean - slope * mean_s)
