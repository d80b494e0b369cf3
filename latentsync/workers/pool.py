"""The scheduler that all engines share: one task at a time for each worker; what follows when one dies."""

from __future__ import annotations

import errno
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Literal, NoReturn, Protocol

from latentsync.errors import LatentSyncError, MemoryShortage, RecipeError, UsageError, WeightsError

EngineName = Literal["local", "ray"]  # processes of this machine, or a Ray cluster
Work = Callable[[Any], Any]
# Run once in each worker: loads what is slow to load; has to survive pickling.
WorkerFactory = Callable[[], Work]
Failure = Literal["crashed", "hung", "error"]
TRIES = 2
LIMIT_S = 1800.0
POLL_S = 0.25
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: `key` names it, `content` goes to the worker, `tries` is how many failed already."""

    key: str
    content: Any
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception of a worker, in values that reach the parent whatever its type.

    error  the exception itself where it is a LatentSyncError, so that it can be raised again
    """

    text: str
    trace: str = ""
    is_disk_full: bool = False
    error: LatentSyncError | None = None

    def raise_if_fatal(self) -> None:
        """Raise what every other task would meet, too: a full disk, missing weights, wrong settings."""
        if self.is_disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if isinstance(self.error, WeightsError | RecipeError | UsageError):
            raise self.error


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt at a task ended.

    answer    what the worker returned, if `failure` is None
    is_final  no other attempt follows
    """

    task: Task
    answer: Any = None
    failure: Failure | None = None
    fault: Fault = field(default_factory=lambda: Fault(""))
    took_s: float = 0.0
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker sent, or how it died: then `content` is a Fault, and the scheduler may start it again."""

    worker: int
    kind: Literal["ready", "answer", "error", "failed_to_start", "died"]
    content: Any = None


class WorkerPool(Protocol):
    """Workers, numbered from 0. An engine starts them, carries messages, and notices when one dies."""

    size: int  # how many workers to start at most
    location: str  # where they run, in words

    def start(self, worker: int) -> None:
        """Start a worker, or a new one in place of a dead one; it sends "ready" or "failed_to_start"."""

    def send(self, worker: int, content: Any) -> None:
        """Send a task to a ready worker; it answers "answer" or "error"."""

    def receive(self, timeout_s: float) -> list[Message]:
        """The messages since the last call; waits for at most `timeout_s`."""

    def kill(self, worker: int) -> None:
        """End a worker at once; it is then reported as died."""

    def close(self) -> None:
        """End all workers at once, and everything that the engine started for them."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a task is given up: after `tries` failed attempts; an attempt fails after `limit_s` seconds."""

    tries: int = TRIES
    limit_s: float = LIMIT_S


def describe_fault(error: BaseException) -> Fault:
    """`error` as one line, with the trace for the log; looks through its causes for a full disk."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    is_disk_full = any(isinstance(cause, OSError) and cause.errno in NO_SPACE for cause in causes)
    lines = str(error).strip().splitlines()
    return Fault(
        f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "),
        trace="".join(traceback.format_exception(error)[-12:]),
        is_disk_full=is_disk_full,
        error=error if isinstance(error, LatentSyncError) else None,
    )


def run_tasks(
    pool: WorkerPool,
    tasks: Iterable[Task],
    rules: Rules | None = None,
    *,
    drop: Callable[[Task], None] | None = None,
) -> Generator[Attempt, None, None]:
    """Run `tasks` and yield every attempt, in the order in which they end; closes the pool.

    A task that kills its worker, raises or runs for too long is tried again after all others. Meanwhile
    SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does.

    Args:
        drop: called, once the workers are gone, for each task that was unfinished when the caller stopped.

    Raises:
        LatentSyncError: a worker cannot be made ready; the worker's own error where it raised one.
    """
    scheduler = _Scheduler(pool, deque(tasks), rules or Rules())
    with _stop_signals_as_ctrl_c():
        try:
            scheduler.hand_out()
            while scheduler.waiting or scheduler.busy:
                for message in pool.receive(POLL_S):
                    yield from scheduler.handle(message)
                scheduler.hand_out()
                scheduler.end_overdue()
        finally:
            pool.close()
            for task, _ in scheduler.busy.values():
                if drop is not None:
                    drop(task)


@contextmanager
def _stop_signals_as_ctrl_c() -> Iterator[None]:
    """Answer the signals of batch systems and closed terminals like Ctrl-C; ignored ones stay ignored.

    Only the first: those that follow must not interrupt the clean-up.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: answer for number, answer in before.items() if answer not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: whoever called us answers signals
        before = {}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


@dataclass(slots=True)
class _Scheduler:
    """Which worker does what. One that is neither starting nor idle nor busy is not running."""

    pool: WorkerPool
    waiting: deque[Task]
    rules: Rules
    starting: set[int] = field(default_factory=set)
    idle: list[int] = field(default_factory=list)
    busy: dict[int, tuple[Task, float]] = field(default_factory=dict)
    hung: set[int] = field(default_factory=set)
    lost_starts: int = 0

    def hand_out(self) -> None:
        """Give every idle worker a task, and start workers for the tasks that are left."""
        while self.waiting and self.idle:
            worker, task = self.idle.pop(), self.waiting.popleft()
            self.busy[worker] = task, time.monotonic()
            self.pool.send(worker, task.content)
        running = self.starting | set(self.busy)
        absent = [worker for worker in range(self.pool.size) if worker not in running]
        for worker in absent[: max(0, len(self.waiting) - len(self.starting))]:
            self.starting.add(worker)
            self.pool.start(worker)

    def handle(self, message: Message) -> Iterator[Attempt]:
        """Take in one message; yields an attempt if it ends one."""
        worker = message.worker
        if message.kind == "ready":
            self.starting.discard(worker)
            self.idle.append(worker)
            self.lost_starts = 0
        elif message.kind == "failed_to_start":
            fault: Fault = message.content
            raise fault.error or LatentSyncError(
                f"a worker could not start: {fault.text}", hint="try --workers 1 --engine local"
            )
        elif worker in self.busy:
            yield self._end(message)
        elif worker in self.starting:
            self._lose_start(message)
        elif worker in self.idle:
            self.idle.remove(worker)

    def _end(self, message: Message) -> Attempt:
        task, since_s = self.busy.pop(message.worker)
        took_s = time.monotonic() - since_s
        if message.kind != "died":
            self.idle.append(message.worker)
        if message.kind == "answer":
            return Attempt(task, answer=message.content, took_s=took_s)
        failure: Failure = "crashed" if message.kind == "died" else "error"
        if message.worker in self.hung:
            self.hung.discard(message.worker)
            failure = "hung"
        tried = replace(task, tries=task.tries + 1)
        is_final = tried.tries >= self.rules.tries
        if not is_final:
            self.waiting.append(tried)
        return Attempt(tried, failure=failure, fault=message.content, took_s=took_s, is_final=is_final)

    def _lose_start(self, message: Message) -> None:
        self.starting.discard(message.worker)
        self.lost_starts += 1
        if self.lost_starts >= self.rules.tries:
            raise MemoryShortage(
                f"a worker died before it was ready ({message.content.text})",
                hint="the usual reason is memory: use fewer --workers",
            )

    def end_overdue(self) -> None:
        """Kill workers whose task runs for longer than the limit; they are then reported as died."""
        now_s = time.monotonic()
        for worker, (_, since_s) in self.busy.items():
            if now_s - since_s > self.rules.limit_s and worker not in self.hung:
                self.hung.add(worker)
                # It may have ended by itself meanwhile.
                with suppress(OSError):
                    self.pool.kill(worker)
