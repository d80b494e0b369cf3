"""The HTTP interface keeps to its own description, whatever it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from latentsync import load
from latentsync.serve.app import Limits, make_app
from latentsync.serve.jobs import JobQueue

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

LOCAL = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    networks = load("compact", device="cpu").networks
    jobs = JobQueue(tmp_path_factory.mktemp("served"), networks, most_waiting=1000, keep_s=60)
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(jobs, Limits(1_000_000)), headers=LOCAL)
    jobs.close()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def check(operation: Any, data: st.DataObject) -> None:
    case = data.draw(operation.as_strategy())
    case.call_and_validate(headers=LOCAL)


@pytest.mark.parametrize(
    "route",
    [
        "POST /jobs",
        "GET /jobs",
        "GET /jobs/{identity}",
        "DELETE /jobs/{identity}",
        "GET /jobs/{identity}/events",
        "GET /jobs/{identity}/result",
    ],
)
def test_answers_are_as_described(route: str, described: Any) -> None:
    operations = {
        f"{found.method.upper()} {found.path}": found for found in map(ok, described.get_all_operations())
    }
    check(operations[route])


def ok(result: Any) -> Any:
    return result.ok()
