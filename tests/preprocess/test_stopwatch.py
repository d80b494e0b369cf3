"""Seconds go to the step that spends them, also where a later step pulls the frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from latentsync.preprocess.chain import process
from latentsync.preprocess.step import Clip, Drop, Source
from latentsync.preprocess.stopwatch import Stopwatch
from latentsync.types import Frame

NOTHING = np.zeros((1, 1, 3), np.uint8)


class Clock:
    """Time passes only when a step says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Reader:
    clock: Clock
    name: str = "reader"

    def start(self) -> None:
        self.clock.now_s += 50

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        self.clock.now_s += 1
        yield replace(clip, stream=self.frames())
        self.clock.now_s += 2

    def frames(self) -> Iterator[Frame]:
        for number in range(3):
            self.clock.now_s += 10
            yield Frame(NOTHING, number, number / 25)


@dataclass
class Judge:
    clock: Clock
    name: str = "judge"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        assert clip.stream is not None
        for _ in clip.stream:
            self.clock.now_s += 0.25
        yield Drop("no_face")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stand_in = Clock()
    monkeypatch.setattr(time, "perf_counter", stand_in)
    return stand_in


def test_each_step_has_its_own_seconds(clock: Clock, tmp_path: Path) -> None:
    watch = Stopwatch()
    steps = [watch.on(Reader(clock)), watch.on(Judge(clock))]
    for step in steps:
        step.start()
    clock.now_s += 7
    source = Source(tmp_path / "a.mp4", "a.mp4")
    assert [one.reason for one in process(source, steps, tmp_path)] == ["no_face"]
    assert watch.take() == {"reader": 33.0, "judge": 0.75}
    assert watch.take() == {}
