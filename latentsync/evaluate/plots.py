"""Drawings of the page, as SVG text: they need no script, no font and no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
_TOLD_POINTS = 400  # with more, points get no names of their own, so that the page stays small
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Point:
    """A point with the name of what it stands for."""

    x: float
    y: float
    name: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A place for drawing: size in pixels, and the values at its edges."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    left: int = 46
    bottom: int = 34
    top: int = 8
    right: int = 8

    def at_x(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return (
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.bottom - self.top)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The clips of one method: their points, and the mean with its interval."""

    name: str
    values: Sequence[tuple[str, float]]
    mean: float | None
    low: float | None
    high: float | None


def strip_plot(title: str, groups: Sequence[Group]) -> str:
    """One column of points for each group, with its mean and interval; every point is a clip."""
    values = [value for group in groups for _, value in group.values]
    if not values:
        return ""
    width = max(150, 46 + 8 + 64 * len(groups))
    panel = Panel(width, 190, (0, len(groups)), _range(values))
    is_told = len(values) <= _TOLD_POINTS
    parts = [_y_axis(panel)]
    for place, group in enumerate(groups):
        colour = COLOURS[place % len(COLOURS)]
        count = max(1, len(group.values) - 1)
        points = [
            Point(place + 0.2 + 0.6 * rank / count, value, f"{name}: {value:.4g}")
            for rank, (name, value) in enumerate(group.values)
        ]
        parts += [_points(panel, points, colour, is_told=is_told), _mean(panel, group, place)]
        middle = panel.at_x(place + 0.5)
        parts.append(
            f'<text x="{middle:.1f}" y="{panel.height - 18}" text-anchor="middle">{_short(group.name)}</text>'
        )
    return _svg(panel, title, parts)


def scatter(
    title: str, points: Sequence[Point], panel: Panel, *, colour: str, labels: tuple[str, str]
) -> str:
    """Points over two axes, named by `labels`."""
    parts = [_y_axis(panel), _x_axis(panel)]
    parts.append(_points(panel, points, colour, is_told=len(points) <= _TOLD_POINTS))
    parts += _axis_names(panel, labels)
    return _svg(panel, title, parts)


def curve(title: str, points: Sequence[tuple[float, float]], panel: Panel, *, labels: tuple[str, str]) -> str:
    """A line through points, above the diagonal of chance."""
    path = " ".join(f"{panel.at_x(x):.1f},{panel.at_y(y):.1f}" for x, y in points)
    corners = [panel.at_x(panel.x[0]), panel.at_y(panel.y[0]), panel.at_x(panel.x[1]), panel.at_y(panel.y[1])]
    chance = " ".join(
        f'{name}="{value:.1f}"' for name, value in zip(("x1", "y1", "x2", "y2"), corners, strict=True)
    )
    parts = [_y_axis(panel), _x_axis(panel), f'<line {chance} class="grid" stroke-dasharray="4 3"/>']
    parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[1]}" stroke-width="2"/>')
    return _svg(panel, title, parts + _axis_names(panel, labels))


def bars(title: str, counts: Sequence[tuple[int, int]], *, labels: tuple[str, str]) -> str:
    """A histogram over whole numbers on both sides of 0."""
    widest = max(5, *(abs(x) for x, _ in counts)) + 1
    tallest = max((count for _, count in counts), default=1) or 1
    panel = Panel(420, 220, (-widest, widest), (0, tallest * 1.05))
    parts = [_y_axis(panel), _x_axis(panel)]
    for x, count in counts:
        left, right = panel.at_x(x - 0.4), panel.at_x(x + 0.4)
        top, foot = panel.at_y(count), panel.at_y(0)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{foot - top:.1f}"'
            f' fill="{COLOURS[1]}"><title>{x}: {count}</title></rect>'
        )
    return _svg(panel, title, parts + _axis_names(panel, labels))


def _svg(panel: Panel, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {panel.width} {panel.height}" width="{panel.width}"'
        f' height="{panel.height}" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _points(panel: Panel, points: Sequence[Point], colour: str, *, is_told: bool) -> str:
    if is_told:
        return "".join(
            f'<circle cx="{panel.at_x(point.x):.1f}" cy="{panel.at_y(point.y):.1f}" r="3" fill="{colour}"'
            f' fill-opacity=".65"><title>{escape(point.name)}</title></circle>'
            for point in points
        )
    # One dot a pixel: more would not be seen, but would make the page as large as the set.
    dots = dict.fromkeys(f"M{panel.at_x(point.x):.0f} {panel.at_y(point.y):.0f}h0" for point in points)
    drawn = f'stroke="{colour}" stroke-opacity=".5" stroke-width="3" stroke-linecap="round"'
    return f'<path d="{"".join(dots)}" {drawn}/>'


def _mean(panel: Panel, group: Group, place: int) -> str:
    if group.mean is None:
        return ""
    left, right, y = panel.at_x(place + 0.15), panel.at_x(place + 0.85), panel.at_y(group.mean)
    drawn = f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="mean"/>'
    if group.low is not None and group.high is not None:
        x, low, high = panel.at_x(place + 0.5), panel.at_y(group.low), panel.at_y(group.high)
        drawn += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" class="mean"/>'
    return drawn


def _y_axis(panel: Panel) -> str:
    parts = []
    for value in _ticks(panel.y):
        y = panel.at_y(value)
        parts.append(
            f'<path d="M{panel.left} {y:.1f}H{panel.width - panel.right}" class="grid"/>'
            f'<text x="{panel.left - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    return "".join(parts)


def _x_axis(panel: Panel) -> str:
    foot = panel.height - panel.bottom
    return "".join(
        f'<path d="M{panel.at_x(value):.1f} {foot}v4" class="axis"/>'
        f'<text x="{panel.at_x(value):.1f}" y="{foot + 15}" text-anchor="middle">{value:.4g}</text>'
        for value in _ticks(panel.x)
    )


def _axis_names(panel: Panel, labels: tuple[str, str]) -> list[str]:
    middle_x = (panel.left + panel.width - panel.right) / 2
    middle_y = (panel.top + panel.height - panel.bottom) / 2
    return [
        f'<text x="{middle_x:.0f}" y="{panel.height - 4}" text-anchor="middle">{escape(labels[0])}</text>',
        f'<text transform="translate(11 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(labels[1])}</text>",
    ]


def _ticks(span: tuple[float, float]) -> list[float]:
    """Round numbers within a span, about four of them."""
    low, high = span
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(count * step, 12) for count in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.5
    return low - margin, high + margin


def _short(name: str) -> str:
    return escape(name if len(name) <= 10 else f"{name[:9]}…")
