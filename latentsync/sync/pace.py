"""How fast frames are made: by stage for the report, and as an estimate before the end is near."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeVar

from latentsync.events import Note, Report, format_duration

ItemT = TypeVar("ItemT")
WORTH_SAYING_S = 20.0  # a shorter rest needs no estimate


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
