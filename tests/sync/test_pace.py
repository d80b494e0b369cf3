"""What is said about speed, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from latentsync.events import Event, Note
from latentsync.sync import pace as module
from latentsync.sync.pace import Pace, Stopwatch


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


def test_stages_side_by_side_do_not_count_their_waiting(clock: Clock) -> None:
    times = Stopwatch()
    closed: list[str] = []

    def slow(items: range, took_s: float) -> Iterator[int]:
        try:
            for item in items:
                clock.now_s += took_s
                yield item
        finally:
            closed.append("slow")

    first = times.of("waiting", times.of("first", slow(range(4), 2.0)))

    def second() -> Iterator[int]:
        for item in first:
            clock.now_s += 1.0
            yield item

    taken = times.of("second", second())
    assert [next(taken), next(taken), next(taken)] == [0, 1, 2]
    taken.close()  # type: ignore[attr-defined]
    assert times.without("second", "waiting") == 3.0 and times.seconds["first"] == 6.0
    first.close()  # type: ignore[attr-defined]
    assert closed == ["slow"]
