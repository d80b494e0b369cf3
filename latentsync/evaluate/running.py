"""Scores many pairs: in this process, in several, or on a Ray cluster; one that fails ends nothing else."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import torch

from latentsync.errors import MediaError, RecipeError, UsageError, WeightsError
from latentsync.evaluate.cache import Cache, content_hash
from latentsync.evaluate.prepare import Faces
from latentsync.evaluate.score import Assignment, ClipScores, Scorer, failed
from latentsync.events import Note, Progress, Report
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import BUNDLED, choose_landmarker, fan_weights
from latentsync.metrics import build_metrics
from latentsync.metrics.metric import ClipMetric, SetMetric, Unavailable
from latentsync.recipe.evaluate import Preparing
from latentsync.workers.local import LocalPool, cores
from latentsync.workers.pool import Attempt, Rules, Task, Work, describe_fault, run_tasks
from latentsync.workers.ray import RayPool

Metrics = tuple[Sequence[ClipMetric], Sequence[SetMetric], Sequence[Unavailable]]


def all_metrics(metrics: Metrics) -> list[ClipMetric | SetMetric]:
    """Those that can be measured, of clips and of sets."""
    return [*metrics[0], *metrics[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Where pairs are scored, and how many at a time.

    workers  None: one for a GPU, else one per core
    device   "cpu", "cuda" or "mps"
    limit_s  a pair that takes longer is given up
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = None
    device: str = "cpu"
    limit_s: float = 1800.0

    @property
    def size(self) -> int:
        """How many workers of this machine."""
        return self.workers or (cores() if self.device == "cpu" else 1)

    @property
    def place(self) -> str:
        """Where they run, for people."""
        if self.engine == "ray":
            return f"Ray, {self.address or 'on this machine'}"
        return f"this machine, {self.size} at a time on {self.device}"


def choose_scorer(
    names: Sequence[str] | None,
    preparing: Preparing,
    cache: Path,
    *,
    device: str,
    identity_network: Path | None = None,
) -> Work:
    """Load what a worker needs. Networks of metrics are loaded when the first of them is used."""
    metrics = build_metrics(names, device=device, identity_network=identity_network)
    return make_scorer(metrics, preparing, cache)


def make_scorer(metrics: Metrics, preparing: Preparing, cache: Path) -> Work:
    """What scores one pair by `metrics`; it changes the number of threads of this process to one.

    One thread, because sums over several differ in their last digits with the number of threads.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faces = Faces(Detector(), choose_landmarker(), points_by())
    return Scorer(metrics[0], metrics[1], preparing, faces, Cache(cache)).score


def points_by() -> str:
    """Which network finds the 68 points here: whose, and the hash of its weights."""
    theirs = fan_weights()
    return f"{'face-alignment' if theirs else 'ours'} {content_hash(theirs or BUNDLED)[:12]}"


def score_all(
    assignments: Sequence[Assignment], make: partial[Work], options: WorkerOptions, report: Report
) -> list[ClipScores]:
    """Score all pairs. The answers come in the order of the pairs, whoever finishes first.

    Raises:
        MediaError: the disk is full.
        WeightsError: a network is missing or damaged.
    """
    tasks = [Task(str(place), one) for place, one in enumerate(assignments)]
    answers: dict[str, list[ClipScores]] = {}
    report(Progress("scoring", 0, len(tasks), "clips"))
    try:
        with closing(_ends(tasks, make, options)) as ends:
            for ended in ends:
                _take(ended, answers, report)
                report(Progress("scoring", len(answers), len(tasks), "clips", note=_counts(answers)))
    except KeyboardInterrupt:
        report(Note(f"{len(answers)} of {len(tasks)} clips are done: the same command goes on", "warning"))
        raise
    return [scores for task in tasks for scores in answers[task.key]]


def _ends(tasks: list[Task], make: partial[Work], options: WorkerOptions) -> Generator[Attempt, None, None]:
    rules, most = Rules(limit_s=options.limit_s), max(1, len(tasks))
    if options.engine == "ray":
        gpu = options.device != "cpu"
        pool = RayPool(make, workers=options.workers, most=most, address=options.address, gpu=gpu)
        return run_tasks(pool, tasks, rules)
    if options.size > 1 and len(tasks) > 1:
        return run_tasks(LocalPool(make, workers=options.size, most=most), tasks, rules)
    return _in_this_process(tasks, make)


def _in_this_process(tasks: list[Task], make: partial[Work]) -> Generator[Attempt, None, None]:
    with _threads_kept():
        score = make()
        for task in tasks:
            try:
                ended = Attempt(task, answer=score(task.content))
            except Exception as error:  # as in a worker: one clip does not end the run
                ended = Attempt(task, failure="error", fault=describe_fault(error))
            yield ended


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _take(ended: Attempt, answers: dict[str, list[ClipScores]], report: Report) -> None:
    assignment: Assignment = ended.task.content
    if ended.failure is None:
        answers[ended.task.key] = ended.answer
        return
    fault = ended.fault
    if fault.is_disk_full:
        raise MediaError(
            "the disk of the cache or the output is full", hint="free some space; nothing is lost"
        )
    if isinstance(fault.error, WeightsError | RecipeError | UsageError):
        raise fault.error  # every other clip would meet it, too
    follows = "it is listed as failed" if ended.is_final else "it is tried again at the end"
    report(Note(f"'{assignment.pair.name}': {ended.failure} ({fault.text}), {follows}", "warning"))
    if ended.is_final:
        detail = fault.text if ended.failure == "error" else f"the worker {ended.failure}"
        answers[ended.task.key] = failed(assignment, detail)


def _counts(answers: dict[str, list[ClipScores]]) -> str:
    excluded = sum(bool(one.reason) for scores in answers.values() for one in scores)
    return f"{excluded} videos excluded" if excluded else ""
