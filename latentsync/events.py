"""What a long run tells the person who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """Reported once, before the slow part: one line per fact, such as model, device and output."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of work are finished; `total` is None while it is unknown.

    note     what else is counted on the way, such as clips that were dropped
    picture  gives the frame that was just finished, (h w c) uint8 RGB, where there is one
    """

    stage: str
    done: int
    total: int | None
    unit: str = "frames"
    note: str = ""
    picture: Callable[[], Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """Something the person should know that stops nothing, such as frames without a face."""

    message: str
    level: str = "info"  # "info" or "warning"


@dataclass(frozen=True, slots=True)
class Measured:
    """Named numbers at one point of a run, such as the losses of a training step."""

    step: int
    values: dict[str, float]


Event = Plan | Progress | Note | Measured
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A report for those who want none."""


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> format_duration(6.4), format_duration(90), format_duration(7200), format_duration(400_000)
    ('6 s', '2 min', '2.0 h', '4.6 days')
    """
    if seconds < 60:
        return f"{round(seconds)} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
