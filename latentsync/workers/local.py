"""Workers that are processes of this machine.

Each has a pipe of its own, because a shared pool cannot tell which task killed its worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from latentsync.workers.pool import STOP_SIGNALS, Fault, Message, WorkerFactory, describe_fault

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_END_S = 5.0


def cores() -> int:
    """How many cores this process may use."""
    # Not `runtime.usable_cores`: this module is loaded before a worker can report that torch cannot be.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection


class LocalPool:
    """Processes that start afresh (spawn) and end with their parent."""

    def __init__(
        self,
        make: WorkerFactory,
        *,
        workers: int | None = None,
        most: int | None = None,
        shares_cores: bool = False,
        gpus: int = 0,
    ) -> None:
        """Prepare the processes; none is started yet.

        Args:
            workers: how many; None: one per core.
            most: the upper bound, such as the number of tasks.
            shares_cores: each computes in its share of the cores, instead of in one thread.
            gpus: each sees one of so many GPUs, in turn; 0: all that there are.
        """
        self.size = min(workers or cores(), most or sys.maxsize)
        self._threads = max(1, cores() // self.size) if shares_cores else 1
        self._gpus = _visible_gpus(gpus)
        self.location = "processes of this machine"
        self._make = make
        self._workers: dict[int, _Worker] = {}
        # Not fork: a forked process cannot use CUDA, and threads of torch and OpenCV do not survive it.
        self._context = multiprocessing.get_context("spawn")

    def start(self, worker: int) -> None:
        """Start a process; its environment has the number of threads, which libraries read on import."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        with _environment(self._variables(worker)), _signals_blocked():
            process.start()
        theirs.close()  # so that the death of the process ends the pipe
        self._workers[worker] = _Worker(process, ours)

    def _variables(self, worker: int) -> dict[str, str]:
        threads = dict.fromkeys(_THREADS, str(self._threads))
        if not self._gpus:
            return threads
        return {**threads, _VISIBLE_GPUS: self._gpus[worker % len(self._gpus)]}

    def send(self, worker: int, content: Any) -> None:
        """Send a task; `receive` notices a worker that has just died."""
        with suppress(OSError):
            self._workers[worker].pipe.send(content)

    def receive(self, timeout_s: float) -> list[Message]:
        """Messages of the processes, and which of them died."""
        worker_of = {member.pipe: worker for worker, member in self._workers.items()}
        messages = []
        for pipe in wait(list(worker_of), timeout_s):
            worker = worker_of[pipe]  # type: ignore[index]
            try:
                kind, content = self._workers[worker].pipe.recv()
            except (EOFError, OSError):  # it died, perhaps in the middle of a message
                kind, content = "died", Fault(self._reap(worker))
            messages.append(Message(worker, kind, content))
        return messages

    def kill(self, worker: int) -> None:
        """End a process at once."""
        self._workers[worker].process.kill()

    def close(self) -> None:
        """End all processes at once."""
        for member in self._workers.values():
            member.process.kill()
        for worker in list(self._workers):
            self._reap(worker)

    def _reap(self, worker: int) -> str:
        """Collect a dead process; returns how it ended."""
        member = self._workers.pop(worker)
        member.process.kill()  # a pipe may end before its process does
        member.process.join(_END_S)
        member.pipe.close()
        code = member.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _visible_gpus(count: int) -> list[str]:
    """The names of `count` GPUs for CUDA, within those that this process may see."""
    visible = os.environ.get(_VISIBLE_GPUS)
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    return [name.strip() for name in names[:count]]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a process that is started meanwhile: thread pools read them when they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a process that Ctrl-C, SIGTERM and SIGHUP do not reach: its parent answers them."""
    # A new process inherits the mask of the thread that starts it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *STOP_SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, make: WorkerFactory) -> None:
    """What a worker does: load, then answer tasks until the pipe ends."""
    os.dup2(2, 1)  # stdout belongs to the parent's result
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = make()
    except Exception as error:
        pipe.send(("failed_to_start", describe_fault(error)))
        return
    pipe.send(("ready", None))
    while True:
        try:
            content = pipe.recv()
        except EOFError:
            return
        try:
            answer = "answer", work(content)
        except Exception as error:
            answer = "error", describe_fault(error)
        pipe.send(answer)


def _end_with_parent() -> None:
    """A parent that was killed leaves no worker behind that still writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
