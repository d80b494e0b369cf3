"""An iterator in a thread of its own: order, look-ahead, failures and stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from latentsync.sync.stages import Background, Meter

WAIT_S = 20  # far more than is needed; only a broken stage waits that long


class Source:
    """Counts what was taken from it, and says when it was closed."""

    def __init__(self, end: int | None = None, failure: Exception | None = None) -> None:
        self.end, self.failure = end, failure
        self.taken = 0
        self.thread: threading.Thread | None = None
        self.closed = threading.Event()
        self.reached: dict[int, threading.Event] = {}

    def when(self, taken: int) -> threading.Event:
        return self.reached.setdefault(taken, threading.Event())

    def items(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        try:
            while self.taken != self.end:
                self.taken += 1
                self.when(self.taken).set()
                yield self.taken
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed.set()


def test_items_keep_their_order() -> None:
    with Background(iter(range(50)), capacity=3) as items:
        assert list(items) == list(range(50))


def test_it_works_ahead_but_not_far() -> None:
    source = Source()
    third, fifth = source.when(3), source.when(5)
    with Background(source.items(), capacity=2) as items:
        assert third.wait(WAIT_S)  # two wait in the queue, one in the thread's hand
        assert not fifth.wait(0.3)
        assert source.taken == 3
        assert next(items) == 1


def test_a_failure_arrives_after_the_items_before_it() -> None:
    source = Source(end=2, failure=KeyError("lost"))
    taken = []
    with pytest.raises(KeyError, match="lost"), Background(source.items(), capacity=5) as items:
        for item in items:
            taken.append(item)
    assert taken == [1, 2]


def test_an_exception_that_is_an_item_is_handed_on() -> None:
    values = [ValueError("only a value")]
    with Background(iter(values), capacity=1) as items:
        assert list(items) == values


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    source = Source()
    with pytest.raises(ZeroDivisionError), Background(source.items(), capacity=2) as items:
        for item in items:
            _ = 1 // (item - 3)
    assert source.closed.is_set()
    assert source.thread is not None and not source.thread.is_alive()
    assert source.thread is not threading.current_thread()


def test_two_in_a_row_stop_together() -> None:
    source = Source()
    with Background(source.items(), capacity=1) as numbers:
        doubled = (2 * number for number in numbers)
        with Background(doubled, capacity=1) as items:
            assert [next(items), next(items)] == [2, 4]
    assert source.closed.is_set()
    assert source.thread is not None and not source.thread.is_alive()


def test_a_failure_in_the_first_passes_through_the_second() -> None:
    source = Source(end=1, failure=OSError("gone"))
    with (
        Background(source.items(), capacity=1) as numbers,
        Background((2 * number for number in numbers), capacity=1) as items,
    ):
        assert next(items) == 2
        with pytest.raises(OSError, match="gone"):
            next(items)


def test_time_is_charged_to_the_stage_that_spends_it() -> None:
    meter = Meter()

    def slow(items: Iterator[int], work_s: float) -> Iterator[int]:
        for item in items:
            time.sleep(work_s)
            yield item

    first = meter.through("first", slow(iter(range(4)), 0.02))
    second = meter.through("second", slow(first, 0.0))
    with Background(second, capacity=1, stage="second", meter=meter) as items:
        meter.switch("last")
        for _ in items:
            time.sleep(0.06)
    meter.switch("")
    spent = meter.stages
    assert spent["first"].work_s >= 0.08 and spent["first"].output_s == spent["first"].input_s == 0
    assert spent["second"].work_s < spent["first"].work_s
    assert spent["second"].output_s > 0  # one waits in the queue, and one for it
    assert spent["last"].work_s >= 0.24 and spent["last"].input_s > 0


def test_a_measured_source_is_closed() -> None:
    source = Source()
    with (
        pytest.raises(ZeroDivisionError),
        Background(Meter().through("source", source.items()), capacity=2) as items,
    ):
        for item in items:
            _ = 1 // (item - 3)
    assert source.closed.is_set()
