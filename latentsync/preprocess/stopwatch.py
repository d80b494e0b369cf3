"""Measures the seconds each step takes, although the steps pull frames from one another."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from latentsync.preprocess.step import Clip, Drop, Step

ItemT = TypeVar("ItemT")


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by step; while a step waits for frames of the one before, that one's seconds run."""

    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=list)
    _since_s: float = 0.0

    def on(self, step: Step) -> Step:
        """`step`, measured."""
        return _Measured(step, self)

    def take(self) -> dict[str, float]:
        """The seconds since the last call, by step."""
        taken = {name: round(seconds, 4) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        self._running.clear()
        return taken

    def over(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """`items`, whose making counts as seconds of `name`."""
        while True:
            self._switch()
            self._running.append(name)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._switch()
                if self._running:
                    self._running.pop()
            yield item

    def _switch(self) -> None:
        now_s = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now_s - self._since_s
        self._since_s = now_s


@dataclass(slots=True)
class _Measured:
    step: Step
    watch: Stopwatch
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.step.name

    def start(self) -> None:
        self.step.start()

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        for answer in self.watch.over(self.name, self.step.run(clip, out_dir)):
            if isinstance(answer, Drop):
                yield answer
                continue
            if answer.stream is not None and answer.stream is not clip.stream:
                answer = replace(answer, stream=self.watch.over(self.name, answer.stream))
            if answer.pictures is not None and answer.pictures is not clip.pictures:
                answer = replace(answer, pictures=self.watch.over(self.name, answer.pictures))
            yield answer
