"""A stand-in for the core of a command."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import Outcome


class Calls:
    """Remembers what a core was asked for, and answers what it is told to."""

    def __init__(self, answer: Callable[[Any], object]) -> None:
        self.jobs: list[Any] = []
        self.recipes: list[Any] = []
        self.answer = answer

    def run(self, job: Any, recipe: Any, report: object) -> object:
        self.jobs.append(job)
        self.recipes.append(recipe)
        return self.answer(job)

    def check_refusal(self, ended: Outcome, code: int, named: str) -> None:
        """Nothing was started, and two lines say why and what to do."""
        assert ended.code == code
        error, hint = ended.err.splitlines()
        assert error.startswith("error: ") and named in error
        assert hint.startswith("hint:  ")
        assert self.jobs == []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, Callable[[Any], object]], Calls]:
    """Puts a stand-in in place of the `run` of a module."""

    def replace(core: ModuleType, answer: Callable[[Any], object]) -> Calls:
        calls = Calls(answer)
        monkeypatch.setattr(core, "run", calls.run)
        return calls

    return replace
