"""What a metric sees of a clip, and what a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.axes import expect_axes
from latentsync.metrics.statistics import FeatureStatistics, frechet_distance

Better = Literal["higher", "lower", "real"]  # "real": the nearer to the value of real videos, the better
Need = Literal["real", "speaker", "input", "points"]
Side = Literal["made", "real"]
Points = NDArray[np.float32]  # (f 68 2) x, y in pixels of the crop; NaN in frames where the face is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClip:
    """What a metric sees of one clip, everything matched by time at 25 fps.

    Arrays may differ in length by a few frames: metrics compare the frames that both have.

    name            tells clips apart; also names the random draws of metrics that sample
    made_u8         (f h w c) aligned square RGB crops of the generated video
    real_u8         (f h w c) those of the reference video (same speech), same geometry; None without one
    speech          (n,) 16 kHz mono, on the time axis of the generated video
    made_points     (f 68 2) landmarks in pixels of the crop, NaN where the face is lost; None for no points
    real_points     (f 68 2) those of the reference video
    speaker_points  (f 68 2) those of the video that the speech came from; `real_points` in reconstruction
    input_points    (f 68 2) those of the input video's own mouth at the same frames
    input_u8        (f h w c) crops of the input video at the same frames
    """

    name: str
    made_u8: NDArray[np.uint8]
    real_u8: NDArray[np.uint8] | None = None
    speech: NDArray[np.float32]
    made_points: Points | None = None
    real_points: Points | None = None
    speaker_points: Points | None = None
    input_points: Points | None = None
    input_u8: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for crops_u8 in (self.made_u8, self.real_u8, self.input_u8):
            if crops_u8 is not None:
                expect_axes(crops_u8, "f h w c", h=self.side_px, w=self.side_px, c=3)
        for points in (self.made_points, self.real_points, self.speaker_points, self.input_points):
            if points is not None:
                expect_axes(points, "f n d", n=68, d=2)
        expect_axes(self.speech, "t")

    @property
    def side_px(self) -> int:
        return int(self.made_u8.shape[1])

    def crops_u8(self, side: Side) -> NDArray[np.uint8]:
        """The crops of the generated or of the reference video; none (0 h w c) without a reference."""
        crops_u8 = self.made_u8 if side == "made" else self.real_u8
        return self.made_u8[:0] if crops_u8 is None else crops_u8


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no score. An answer, not an error.

    reason  a fixed word, counted in the report: "no_reference", "too_short", "face_lost"…
    detail  the two values that did not fit, for the reader
    """

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """One column of the table: its name, its unit ("" for none), and which way is better.

    undefined  why a clip may lack it though it has the metric's other numbers
    """

    name: str
    unit: str
    better: Better
    undefined: str = ""


@dataclass(frozen=True, slots=True)
class MetricSetup:
    """What metrics are built with: where networks run, and the file of the user's face network."""

    device: torch.device
    identity_network: Path | None = None


class Metric(ABC):
    """What every metric states about itself.

    name     in `--metrics`, and in the keys of cached scores
    values   the numbers that it gives, in this order
    needs    the parts of a clip without which it is not asked
    weights  its entry in the catalogue; "" for none. No other network ever stands in for it
    revision  a new one makes cached scores stale
    """

    name: ClassVar[str]
    values: ClassVar[tuple[Value, ...]]
    needs: ClassVar[tuple[Need, ...]] = ()
    weights: ClassVar[str] = ""
    revision: ClassVar[str] = "1"

    @property
    def version(self) -> str:
        """Scores in the cache are those of this version."""
        return self.revision

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        """The metric, which loads its network when it is first used."""
        return cls()

    @classmethod
    def unavailable_reason(cls, setup: MetricSetup) -> str:
        """What to do before it can be measured here; "" for nothing."""
        from latentsync.weights.catalog import find_entry
        from latentsync.weights.hub import is_present

        is_ready = not cls.weights or is_present(find_entry(cls.weights))
        return "" if is_ready else f"run 'latentsync models pull {cls.weights}'"

    @classmethod
    def judge_file(cls) -> Path | None:
        """The weights of the network that judges, if one does: a model may have been trained with it."""
        from latentsync.weights.catalog import find_entry
        from latentsync.weights.hub import path_of

        return path_of(find_entry(cls.weights)) if cls.weights else None


class ClipMetric(Metric):
    """One number, or a few named ones, per clip."""

    @abstractmethod
    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        """The numbers by name; one that is undefined for this clip is left out, or NaN."""


class SetMetric(Metric):
    """One number per set of clips: the Fréchet distance between features of both sides.

    width  numbers in each feature
    """

    needs: ClassVar[tuple[Need, ...]] = ("real",)
    width: int

    @abstractmethod
    def features(self, clip: ScoredClip, side: Side) -> NDArray[np.float64]:
        """Features (n d) of one side of a clip; (0 d) if it is too short or has no such side."""

    def compare(self, made: FeatureStatistics, real: FeatureStatistics) -> float | Missing:
        """The distance, where both sides have the two features that a covariance needs."""
        fewest = min(made.count, real.count)
        return frechet_distance(made, real) if fewest >= 2 else Missing("too_few", f"{fewest} features < 2")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A metric that cannot be measured here, and why: "not available: run 'latentsync models pull …'"."""

    name: str
    reason: str
