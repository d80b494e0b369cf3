"""A real Ray on this machine with two workers does what local processes do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import pytest

from latentsync.errors import UsageError
from latentsync.workers.local import LocalPool
from latentsync.workers.pool import Attempt, Rules, WorkerFactory
from latentsync.workers.ray import RayPool

Run = Callable[..., list[Attempt]]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@needs_ray
def test_two_workers_answer_die_and_are_replaced_like_local_ones(
    make: WorkerFactory, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = ["os._exit(3)", "1 / 0", "time.sleep(60)", "print('printed')", *(f"{n} * 2" for n in range(6))]
    rules = Rules(limit_s=2.0)
    on_ray = run(RayPool(make, workers=2), lines, rules)
    printed = capfd.readouterr().out
    here = run(LocalPool(make, workers=2), lines, rules)
    seen, expected = (
        sorted(
            (one.task.key, one.task.tries, str(one.answer), str(one.failure), one.is_final) for one in ends
        )
        for ends in (on_ray, here)
    )
    assert seen == expected
    assert printed == ""


@needs_ray
def test_an_address_without_ray_is_named(make: WorkerFactory) -> None:
    with pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:9: no Ray cluster answers"):
        RayPool(make, address="127.0.0.1:9")


@needs_ray
def test_a_ray_that_does_not_start_is_one_line(make: WorkerFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(
        UsageError, match=r"Ray did not start \(The current node timed out during startup\.\)"
    ):
        RayPool(make, workers=1)


def test_without_ray_the_extra_is_named(make: WorkerFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as stopped:
        RayPool(make)
    assert stopped.value.hint == "run: pip install 'latentsync[ray]'"
