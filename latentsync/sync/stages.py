"""Runs the stages of a stream side by side, a few items apart."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
_POLL_S = 0.1


class Background(Generic[ItemT]):
    """Runs an iterator in a thread of its own, at most `capacity` items ahead of whoever takes them.

    Use as a context manager: leaving it stops the thread and closes the iterator, also on Ctrl-C.
    An exception in the iterator is raised where its items are taken.
    """

    def __init__(self, items: Iterator[ItemT], *, capacity: int) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[str, ItemT | BaseException | None]] = queue.Queue(capacity)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)

    def __enter__(self) -> Iterator[ItemT]:
        self._thread.start()
        return self._take()

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for item in self._items:
                if not self._put("item", item):
                    break
            else:
                self._put("end", None)
        except BaseException as error:  # whatever it is, it belongs to the thread that takes the items
            self._put("error", error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()

    def _put(self, word: str, value: ItemT | BaseException | None) -> bool:
        while not self._is_stopped.is_set():
            try:
                self._queue.put((word, value), timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def _take(self) -> Iterator[ItemT]:
        while not self._is_stopped.is_set():
            try:
                word, value = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if word == "end":
                return
            if isinstance(value, BaseException) and word == "error":
                raise value
            yield value  # type: ignore[misc]
