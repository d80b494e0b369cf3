"""What is said about speed, with a clock of the test's own."""

from __future__ import annotations

import pytest

from latentsync.events import Event, Note
from latentsync.sync import pace as module
from latentsync.sync.pace import Pace


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_second_window_tells_the_speed(clock: Clock) -> None:
    pace = Pace(frames=1000, window=16)
    events: list[Event] = []
    for done in range(1, 100):
        clock.now_s += 10.0 if done <= 16 else 0.25
        pace.note(done, events.append)
    assert events == [Note("about 4 min at 4 frames a second left")]


def test_a_short_rest_is_not_worth_a_line(clock: Clock) -> None:
    pace = Pace(frames=60, window=16)
    events: list[Event] = []
    for done in range(1, 61):
        clock.now_s += 0.25
        pace.note(done, events.append)
    assert events == []
