"""Workers that are actors of a Ray cluster, or of a Ray that is started on this machine.

Only paths and answers travel; every machine reads and writes the same file system under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import redirect_stdout, suppress
from typing import Any

from latentsync.errors import UsageError
from latentsync.workers.local import cores
from latentsync.workers.pool import Fault, Message, Work, WorkerFactory, describe_fault

_REACH_S = 10.0


class RayPool:
    """Actors with one core each and an equal share of the GPUs; a dead one is replaced, never restarted."""

    def __init__(
        self,
        make: WorkerFactory,
        *,
        workers: int | None = None,
        most: int | None = None,
        address: str | None = None,
        gpu: bool = True,
    ) -> None:
        """Connect to the cluster at `address`, or start one here.

        Args:
            workers: how many actors; None: one per core of the cluster.
            most: the upper bound, such as the number of tasks.
            gpu: take a share of the cluster's GPUs, if it has some.

        Raises:
            UsageError: Ray is not installed, or no cluster answers at `address`.
        """
        self._make = make
        self._ray = _import_ray()
        # Ray reports dead workers on stdout, which belongs to results; there is no setting for that.
        self._quiet = redirect_stdout(sys.stderr)
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, address, workers)
        resources = self._ray.cluster_resources()
        self.size = min(workers or max(1, int(resources.get("CPU", 1))), most or sys.maxsize)
        self.location = f"Ray at {address}" if address else "Ray on this machine"
        share = min(1.0, resources.get("GPU", 0) / self.size) if gpu else 0.0
        self._options = {"num_cpus": 1, "num_gpus": int(share * 1000) / 1000, "max_restarts": 0}
        self._actors: dict[int, Any] = {}
        self._awaited: dict[Any, int] = {}
        self._quiet.__enter__()

    def start(self, worker: int) -> None:
        """Start an actor and let it load."""
        self._actors[worker] = self._ray.remote(_Actor).options(**self._options).remote(self._make)
        self._awaited[self._actors[worker].start.remote()] = worker

    def send(self, worker: int, content: Any) -> None:
        """Send a task to an actor."""
        self._awaited[self._actors[worker].run.remote(content)] = worker

    def receive(self, timeout_s: float) -> list[Message]:
        """Messages of the actors, and which of them died."""
        done, _ = self._ray.wait(list(self._awaited), num_returns=1, timeout=timeout_s)
        messages = []
        for awaited in done:
            worker = self._awaited.pop(awaited)
            try:
                kind, content = self._ray.get(awaited)
            except self._ray.exceptions.RayError as error:
                self._actors.pop(worker)
                kind, content = "died", Fault(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            messages.append(Message(worker, kind, content))
        return messages

    def kill(self, worker: int) -> None:
        """End an actor at once."""
        self._ray.kill(self._actors[worker])

    def close(self) -> None:
        """End all actors, and the Ray that was started for them."""
        for actor in self._actors.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._actors.clear()
        self._awaited.clear()
        if self._is_ours:
            self._ray.shutdown()
        self._quiet.__exit__(None, None, None)


class _Actor:
    """The worker's side: every exception goes back as a value."""

    def __init__(self, make: WorkerFactory) -> None:
        self._make = make
        self._work: Work | None = None

    def start(self) -> tuple[str, Fault | None]:
        try:
            self._work = self._make()
        except Exception as error:
            return "failed_to_start", describe_fault(error)
        return "ready", None

    def run(self, content: Any) -> tuple[str, Any]:
        if self._work is None:
            raise RuntimeError("a task came before the worker was ready")
        try:
            return "answer", self._work(content)
        except Exception as error:
            return "error", describe_fault(error)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--engine ray: Ray is not installed", hint="run: pip install 'latentsync[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Join the cluster or start one, without dashboard, output on stdout or usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        try:
            ray.init(address="local", num_cpus=workers or cores(), include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises it as such where a process of its own does not answer
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"--engine ray: Ray did not start ({reason})", hint="try again when the machine is less busy"
            ) from error
        return
    try:
        if address != "auto":  # Ray itself would wait for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"--address {address}: no Ray cluster answers ({reason})",
            hint="start one with 'ray start --head', or leave --address out to run on this machine",
        ) from error
