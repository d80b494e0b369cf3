"""Runs the stages of a stream side by side, a few items apart, and measures where their time goes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

ItemT = TypeVar("ItemT")
Kind = Literal["work", "input", "output"]
_POLL_S = 0.1


@dataclass(slots=True)
class StageTime:
    """What one stage of a stream took.

    work_s       seconds by the clock in which it worked
    processor_s  of its own thread; what libraries compute in threads of their own is not in it
    input_s      seconds that it waited for the stage before it
    output_s     seconds that it waited because the stage after it had not taken what was there
    """

    work_s: float = 0.0
    processor_s: float = 0.0
    input_s: float = 0.0
    output_s: float = 0.0


class Meter:
    """Charges the time of every thread to the stage that it works for, or waits in."""

    def __init__(self) -> None:
        self.stages: dict[str, StageTime] = {}
        self._thread = threading.local()

    def switch(self, stage: str, kind: Kind = "work") -> tuple[str, Kind]:
        """From here on this thread's time is charged to `stage`; gives back what it was charged to before.

        The stage "" is charged nothing.
        """
        now_s, processor_s = time.perf_counter(), time.thread_time()
        before: tuple[str, Kind] = getattr(self._thread, "charged", ("", "work"))
        if before[0]:
            spent = self.stages.setdefault(before[0], StageTime())
            passed_s = now_s - self._thread.since_s
            if before[1] == "work":
                spent.work_s += passed_s
            elif before[1] == "input":
                spent.input_s += passed_s
            else:
                spent.output_s += passed_s
            spent.processor_s += processor_s - self._thread.processor_s
        self._thread.charged, self._thread.since_s, self._thread.processor_s = (
            (stage, kind),
            now_s,
            processor_s,
        )
        return before

    def wait(self, kind: Kind) -> tuple[str, Kind]:
        """From here on this thread waits, in the stage that it works for."""
        return self.switch(getattr(self._thread, "charged", ("", "work"))[0], kind)

    def through(self, stage: str, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """The same items; what it takes to make them is charged to `stage`, save what earlier stages take."""
        iterator = iter(items)
        try:
            while True:
                before = self.switch(stage)
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.switch(*before)
                yield item
        finally:
            _close(iterator)


class Background(Generic[ItemT]):
    """Runs an iterator in a thread of its own, at most `capacity` items ahead of whoever takes them.

    Use as a context manager: leaving it stops the thread and closes the iterator, also on Ctrl-C.
    An exception in the iterator is raised where its items are taken.
    """

    def __init__(
        self, items: Iterator[ItemT], *, capacity: int, stage: str = "", meter: Meter | None = None
    ) -> None:
        """`stage` is what the thread's waiting for a free slot is charged to on `meter`."""
        self._items = items
        self._stage, self._meter = stage, meter or Meter()
        self._queue: queue.Queue[tuple[str, ItemT | BaseException | None]] = queue.Queue(capacity)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name=stage or None, daemon=True)

    def __enter__(self) -> Iterator[ItemT]:
        self._thread.start()
        return self._take()

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    def _fill(self) -> None:
        self._meter.switch(self._stage)
        try:
            for item in self._items:
                if not self._put("item", item):
                    break
            else:
                self._put("end", None)
        except BaseException as error:  # whatever it is, it belongs to the thread that takes the items
            self._put("error", error)
        finally:
            _close(self._items)
            self._meter.switch("")

    def _put(self, word: str, value: ItemT | BaseException | None) -> bool:
        before = self._meter.wait("output")
        try:
            while not self._is_stopped.is_set():
                try:
                    self._queue.put((word, value), timeout=_POLL_S)
                    return True
                except queue.Full:
                    continue
            return False
        finally:
            self._meter.switch(*before)

    def _take(self) -> Iterator[ItemT]:
        while True:
            before = self._meter.wait("input")
            try:
                word, value = self._next()
            finally:
                self._meter.switch(*before)
            if word == "end":
                return
            if isinstance(value, BaseException) and word == "error":
                raise value
            yield value  # type: ignore[misc]

    def _next(self) -> tuple[str, ItemT | BaseException | None]:
        while not self._is_stopped.is_set():
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return "end", None


def _close(items: object) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
