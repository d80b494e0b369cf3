"""Workers that do as they are told: a task is a line of Python, so that they have nothing to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from latentsync.workers.pool import Attempt, Rules, Task, WorkerFactory, WorkerPool, run_tasks

WORLD = "{'os': __import__('os'), 'time': __import__('time'), 'signal': __import__('signal')}"
Run = Callable[..., list[Attempt]]


@pytest.fixture
def make() -> WorkerFactory:
    """A worker that evaluates what it is given."""
    return partial(eval, f"lambda line: eval(line, {WORLD})")


@pytest.fixture
def run() -> Run:
    """Runs lines to their end; returns every try's end in order."""

    def run_lines(pool: WorkerPool, lines: Sequence[str], rules: Rules | None = None) -> list[Attempt]:
        return list(run_tasks(pool, [Task(line, line) for line in lines], rules))

    return run_lines
