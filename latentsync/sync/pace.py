"""How fast frames are made: by stage for the report, and as an estimate before the end is near."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from latentsync.events import Note, Report, format_duration

ItemT = TypeVar("ItemT")
WORTH_SAYING_S = 20.0  # a shorter rest needs no estimate


@dataclass(slots=True)
class Stopwatch:
    """Seconds by what they were spent on. Stages that run side by side add up to more than the run takes."""

    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """The items, while the time that each takes to come is added to `name`."""
        try:
            while True:
                started_s = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.add(name, time.perf_counter() - started_s)
                yield item
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def add(self, name: str, seconds: float) -> None:
        """Add to what `name` took."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def without(self, name: str, waiting: str) -> float:
        """What `name` took beside waiting for the stage before it."""
        return max(0.0, self.seconds.get(name, 0.0) - self.seconds.get(waiting, 0.0))


@dataclass(slots=True)
class Pace:
    """Measures the steady speed: from the end of the first window of frames to the end of the second.

    The first window waits for networks that warm up and for all stages to fill.
    """

    frames: int
    window: int
    clock: list[float] = field(default_factory=list)

    def add(self, done: int) -> bool:
        """Take note that `done` frames are made; True once, when the speed is known."""
        if done not in (self.window, 2 * self.window):
            return False
        self.clock.append(time.perf_counter())
        return len(self.clock) == 2

    @property
    def frames_per_s(self) -> float:
        """The steady speed; only after `add` said True."""
        return self.window / max(1e-9, self.clock[1] - self.clock[0])

    def left_s(self, done: int) -> float:
        """How long the other frames will take."""
        return (self.frames - done) / self.frames_per_s

    def describe(self, done: int) -> str:
        """The estimate in words."""
        return f"{format_duration(self.left_s(done))} at {self.frames_per_s:.3g} frames a second"

    def note(self, done: int, report: Report) -> None:
        """Say how long the rest takes, if that is long."""
        if self.add(done) and self.left_s(done) > WORTH_SAYING_S:
            report(Note(f"about {self.describe(done)} left"))
