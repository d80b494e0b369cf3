"""From scores of clips to the numbers of a table: means, distances between sets, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latentsync.evaluate.score import REAL, Cache, ClipScores
from latentsync.metrics.metric import ClipMetric, Missing, SetMetric, Unavailable, Value
from latentsync.metrics.statistics import FeatureStatistics, bootstrap_interval
from latentsync.recipe.evaluate import Intervals
from latentsync.runtime import integer_from

LEVEL = 0.95
NO_CLIP = "no clip was scored"
_LEAST_CLIPS = 2  # one clip has no spread to resample
_CENTRAL = 100 * (1 - LEVEL) / 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table.

    low, high  the interval; None if there is none
    clips      the number of clips behind it
    missing    why there is no value
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    clips: int = 0
    missing: str = ""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method in one setting. `excluded` counts clips by reason."""

    setting: str
    method: str
    clips: int
    used: int
    cells: dict[str, Cell]
    excluded: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Column:
    """A number that was asked for, and the metric that gives it: for each clip, or for a set of them."""

    name: str
    unit: str
    better: str
    metric: str
    is_of_set: bool

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign."""
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole table, and which metrics could not be measured here."""

    columns: tuple[Column, ...]
    rows: tuple[MethodRow, ...]
    unavailable: tuple[Unavailable, ...] = ()


def total(
    scores: Sequence[ClipScores],
    metrics: tuple[Sequence[ClipMetric], Sequence[SetMetric], Sequence[Unavailable]],
    cache: Cache,
    intervals: Intervals,
    *,
    seed: int,
) -> Totals:
    """Sum up scores by setting and method, whatever their order.

    Features are read from `cache` clip by clip, so memory depends on their width only.
    """
    clip_metrics, set_metrics, unavailable = metrics
    columns = [
        _column(value, metric.name, of_set=False) for metric in clip_metrics for value in metric.values
    ]
    columns += [_column(value, metric.name, of_set=True) for metric in set_metrics for value in metric.values]
    groups: dict[tuple[str, str], list[ClipScores]] = {}
    # Sorted: workers finish in any order, and sums of floats depend on it.
    for one in sorted(scores, key=lambda one: (one.setting != "reconstruction", one.setting, one.clip)):
        groups.setdefault((one.setting, one.method), []).append(one)
    rows = []
    for (setting, method), clips in groups.items():
        used = [clip for clip in clips if not clip.reason]
        cells = _clip_cells(clip_metrics, used)
        # The real videos are the other side of every distance between sets.
        if method != REAL:
            for metric in set_metrics:
                cells[metric.values[0].name] = _set_cell(metric, used, cache, intervals, seed=seed)
        reasons = sorted(clip.reason for clip in clips if clip.reason)
        excluded = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
        rows.append(MethodRow(setting, method, len(clips), len(used), cells, excluded))
    return Totals(tuple(columns), tuple(rows), tuple(unavailable))


def _column(value: Value, metric: str, *, of_set: bool) -> Column:
    return Column(value.name, value.unit, value.better, metric, of_set)


def _clip_cells(metrics: Sequence[ClipMetric], used: Sequence[ClipScores]) -> dict[str, Cell]:
    cells = {}
    for metric in metrics:
        for value in metric.values:
            numbers = [clip.values[value.name] for clip in used if value.name in clip.values]
            if numbers:
                cells[value.name] = _mean_cell(numbers, value.name)
            else:
                reasons = [clip.missing[metric.name] for clip in used if metric.name in clip.missing]
                cells[value.name] = Cell(missing=reasons[0] if reasons else NO_CLIP)
    return cells


def _mean_cell(numbers: Sequence[float], name: str) -> Cell:
    if len(numbers) < _LEAST_CLIPS:
        return Cell(math.fsum(numbers) / len(numbers), clips=len(numbers))  # one clip has no interval
    found = bootstrap_interval(numbers, name=name, level=LEVEL)
    return Cell(found.mean, found.low, found.high, len(numbers))


def _set_cell(
    metric: SetMetric, used: Sequence[ClipScores], cache: Cache, intervals: Intervals, *, seed: int
) -> Cell:
    """The distance between the sets, and its interval if the features are narrow enough."""
    clips = [clip for clip in used if metric.name in clip.features]
    sides = _Sides()
    resamples = _Resamples.drawn(len(clips), intervals, integer_from(f"{seed}/bootstrap/{metric.name}"))
    counted = 0
    for index, (made, real) in enumerate(_feature_pairs(metric, clips, cache)):
        if not len(made) or not len(real):
            continue
        counted += 1
        own = _Sides()
        own.add(made, real)
        sides.merge(own, times=1)
        # Every resample holds two matrices of this width: 67 MB for the 2,048 of Inception.
        if made.shape[1] <= intervals.widest:
            resamples.take(own, index)
    if sides.made is None or sides.real is None:
        return Cell(missing="too_short: no clip has features" if clips else NO_CLIP)
    answer = metric.compare(sides.made, sides.real)
    if isinstance(answer, Missing):
        return Cell(missing=f"{answer.reason}: {answer.detail}".rstrip(": "), clips=counted)
    low, high = resamples.interval(metric.compare) if counted >= _LEAST_CLIPS else (None, None)
    return Cell(answer, low, high, counted)


def _feature_pairs(
    metric: SetMetric, clips: Sequence[ClipScores], cache: Cache
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Features of both sides of each clip, in order; none if the cache was emptied meanwhile."""
    nothing = np.zeros((0, metric.width), np.float32)
    for clip in clips:
        made, real = (cache.read_features(key, width=metric.width) for key in clip.features[metric.name])
        yield (nothing if made is None else made), (nothing if real is None else real)


@dataclass(slots=True)
class _Sides:
    """Statistics of both sides."""

    made: FeatureStatistics | None = None
    real: FeatureStatistics | None = None

    def add(self, made: NDArray[np.float32], real: NDArray[np.float32]) -> None:
        self.made, self.real = FeatureStatistics.empty(made.shape[1]), FeatureStatistics.empty(real.shape[1])
        self.made.add(made)
        self.real.add(real)

    def merge(self, other: _Sides, *, times: int) -> None:
        """Take in the statistics of a clip that was drawn `times` times."""
        for side in ("made", "real"):
            theirs: FeatureStatistics = getattr(other, side)
            if getattr(self, side) is None:
                setattr(self, side, FeatureStatistics.empty(len(theirs.mean)))
            # The same features k times: k times the count and the scatter, at the same mean.
            repeated = FeatureStatistics(theirs.count * times, theirs.mean, theirs.outer * times)
            getattr(self, side).merge(repeated)


@dataclass(slots=True)
class _Resamples:
    """The sets of a bootstrap over clips, summed up side by side while the clips are read once.

    counts  (resamples clips) how often each clip is in each set
    """

    counts: NDArray[np.int64]
    sums: list[_Sides]

    @classmethod
    def drawn(cls, clips: int, intervals: Intervals, seed: int) -> _Resamples:
        random = np.random.default_rng(seed)
        sets = intervals.set_resamples if clips >= _LEAST_CLIPS else 0
        # Drawing n of n clips with replacement is a multinomial over the clips.
        counts = random.multinomial(clips, np.full(max(1, clips), 1 / max(1, clips)), size=sets)
        return cls(counts, [_Sides() for _ in range(sets)])

    def take(self, own: _Sides, index: int) -> None:
        for sums, count in zip(self.sums, self.counts[:, index], strict=True):
            if count:
                sums.merge(own, times=int(count))

    def interval(
        self, compare: Callable[[FeatureStatistics, FeatureStatistics], float | Missing]
    ) -> tuple[float | None, float | None]:
        answers = [
            compare(sums.made, sums.real)
            for sums in self.sums
            if sums.made is not None and sums.real is not None
        ]
        # A resample can have too few features for a distance.
        values = [answer for answer in answers if not isinstance(answer, Missing)]
        if not values:
            return None, None
        low, high = np.percentile(values, [_CENTRAL, 100 - _CENTRAL])
        return float(low), float(high)
