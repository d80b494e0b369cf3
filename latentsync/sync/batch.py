"""Many jobs in one run: each worker loads a model once, and what is done stays done whatever ends the run."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from latentsync.errors import LatentSyncError, MemoryShortage, UsageError
from latentsync.events import Note, Plan, Progress, Report, ignore
from latentsync.files import sweep_parts
from latentsync.recipe.loading import dump_recipe
from latentsync.runtime import DeviceName, DtypeName, choose_device, choose_dtype
from latentsync.sync.job import SyncJob
from latentsync.sync.jobs import BatchRow, read_jobs
from latentsync.sync.options import SyncOptions
from latentsync.sync.run import run
from latentsync.weights.models import LipModel, find_model, load_model
from latentsync.workers.local import LocalPool
from latentsync.workers.log import Entry, Log, Shard, read_past
from latentsync.workers.outputs import explained
from latentsync.workers.pool import Attempt, EngineName, Rules, Task, WorkerPool, describe_fault, run_tasks
from latentsync.workers.ray import RayPool

LOG = "batch"
Status = Literal["done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What to work on.

    jobs          *.csv, *.jsonl or a folder: see `jobs.read_jobs`
    out           the folder of the outputs, and of the log that a later run resumes from
    defaults      options of the rows that do not set them
    workers       how many jobs at a time; None: one for each GPU, or one
    retry_failed  try again what failed in an earlier run
    """

    jobs: Path
    out: Path
    defaults: SyncOptions
    model: str
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    engine: EngineName = "local"
    address: str | None = None
    workers: int | None = None
    retry_failed: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How one job ended, now or in an earlier run.

    status      "done", "failed", or in a dry run "to do"
    is_earlier  it was finished before this run
    result      of `sync`, as in its JSON; empty after a failure
    """

    row: int
    output: Path
    status: Literal["done", "failed", "to do"]
    is_earlier: bool = False
    result: dict[str, Any] | None = None
    error: str = ""
    hint: str | None = None
    exit_code: int = 0

    def as_dict(self) -> dict[str, object]:
        """The outcome in values that JSON can hold."""
        return {**asdict(self), "output": str(self.output)}


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How all jobs of the list ended, in its order."""

    outcomes: tuple[JobOutcome, ...]
    took_s: float

    def count(self, status: str) -> int:
        """How many jobs have this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def as_dict(self) -> dict[str, object]:
        """The counts in values that JSON can hold."""
        counts = Counter[str](outcome.status for outcome in self.outcomes)
        earlier = sum(outcome.is_earlier for outcome in self.outcomes)
        return {"jobs": len(self.outcomes), **counts, "earlier": earlier, "took_s": round(self.took_s, 2)}


def run_batch(
    job: BatchJob, report: Report, *, each: Callable[[JobOutcome], None] = lambda outcome: None
) -> BatchResult:
    """Run the jobs that are not done yet. One that fails stops no other.

    Args:
        each: called for every job as soon as it is known how it ended.

    Raises:
        UsageError: the list cannot be used, or another run works in the same folder.
        MediaError: the list cannot be read, the folder cannot be written, or its disk is full.
        WeightsError: a model is missing or damaged.
    """
    started = time.monotonic()
    if job.engine == "local":
        choose_device(job.device)
    rows = read_jobs(job.jobs, job.out, job.defaults, model=job.model, report=report)
    if job.dry_run:
        _, outcomes = _todo(job, rows)
        report(Plan(_plan_lines(job, rows, outcomes, "none, this is a dry run")))
    else:
        with explained(job.out):
            job.out.mkdir(parents=True, exist_ok=True)
            with closing(Log(job.out / LOG, Shard())) as log:
                outcomes = _run_rows(job, rows, log, report, each)
    ended = [outcomes.get(row.number) or _open(row) for row in rows]
    return BatchResult(tuple(ended), time.monotonic() - started)


def _open(row: BatchRow) -> JobOutcome:
    return JobOutcome(row.number, _output_of(row.job), "to do")


def _run_rows(
    job: BatchJob, rows: Sequence[BatchRow], log: Log, report: Report, each: Callable[[JobOutcome], None]
) -> dict[int, JobOutcome]:
    todo, outcomes = _todo(job, rows)
    for outcome in outcomes.values():
        each(outcome)
    tasks = [_claimed(task, log) for task in todo]
    if not tasks:
        report(Plan(_plan_lines(job, rows, outcomes, "none, nothing is left to do")))
        return outcomes
    pool = _worker_pool(job, len(tasks))
    report(Plan(_plan_lines(job, rows, outcomes, f"{pool.size}, {pool.location}")))
    row_of = {_key(row): row for row in rows}
    counts, total = Counter[str](), len(tasks)
    report(Progress("batch", 0, total, "jobs"))
    try:
        # No limit of time: a job may be a film of hours.
        with closing(run_tasks(pool, tasks, Rules(limit_s=math.inf), drop=_sweep)) as attempts:
            for attempt in attempts:
                ended = _take(attempt, row_of[attempt.task.key], log, report)
                if ended is not None:
                    outcomes[ended.row] = ended
                    counts[ended.status] += 1
                    each(ended)
                note = ", ".join(f"{count} {status}" for status, count in counts.items())
                report(Progress("batch", counts.total(), total, "jobs", note=note))
    except KeyboardInterrupt:
        report(
            Note(f"{counts.total()} of {total} jobs ended: run the same command again to resume", "warning")
        )
        raise
    return outcomes


def _todo(job: BatchJob, rows: Sequence[BatchRow]) -> tuple[list[Task], dict[int, JobOutcome]]:
    """The tasks that are left, those of one model in a row, and the outcomes of the others."""
    settled = read_past(job.out / LOG).settled
    left: list[BatchRow] = []
    outcomes: dict[int, JobOutcome] = {}
    ours: set[str] = set()
    for row in rows:
        key = _key(row)
        entry = settled.get(key)
        outcome = None if entry is None else _earlier(entry, row)
        if entry is not None:
            ours.add(key)
        if outcome is None or (job.retry_failed and outcome.status == "failed"):
            left.append(row)
        else:
            outcomes[row.number] = outcome
    # A worker holds one model, so jobs of one model in a row load it once.
    left.sort(key=lambda row: row.job.model)
    return [
        Task(_key(row), (replace(row.job, force=row.job.force or _key(row) in ours), row.recipe))
        for row in left
    ], outcomes


def _earlier(entry: Entry, row: BatchRow) -> JobOutcome | None:
    """How the job ended earlier, if it, its inputs and its output are still the same."""
    values, output = entry.values, _output_of(row.job)
    if values.get("state") not in ("done", "failed") or values.get("digest") != _digest(row):
        return None
    # Whoever removed the output wants it made again.
    if values["state"] == "done" and not output.is_file():
        return None
    names = ("result", "error", "hint", "exit_code")
    known = {name: values[name] for name in names if name in values}
    return JobOutcome(row.number, output, values["state"], is_earlier=True, **known)


def _claimed(task: Task, log: Log) -> Task:
    """Log that the output is this batch's own, if nothing has its name yet: after a kill it is replaced."""
    job, _ = task.content
    if not job.force and not _output_of(job).exists():
        log.append(task.key, {"state": "begun"})
    return task


def _take(attempt: Attempt, row: BatchRow, log: Log, report: Report) -> JobOutcome | None:
    """Log how an attempt ended; gives the outcome unless another attempt follows."""
    output, values = _output_of(row.job), attempt.answer
    if attempt.failure is not None:
        _sweep(attempt.task)
        attempt.fault.raise_if_fatal()
        text = f"{attempt.failure}: {attempt.fault.text}"
        report(
            Note(f"{row.origin}: {text}{'' if attempt.is_final else ', tried again at the end'}", "warning")
        )
        if not attempt.is_final:
            return None
        values = {"state": "failed", "error": text, "hint": None, "exit_code": 1}
    elif values["state"] == "failed":
        report(Note(f"{row.origin}: {values['error']}", "warning"))
    log.append(attempt.task.key, {"digest": _digest(row), "took_s": round(attempt.took_s, 3), **values})
    known = {name: value for name, value in values.items() if name != "state"}
    return JobOutcome(row.number, output, values["state"], **known)


def _worker_pool(job: BatchJob, tasks: int) -> WorkerPool:
    make = partial(make_work, job.device, job.dtype)
    if job.engine == "ray":
        return RayPool(make, workers=job.workers, most=tasks, address=job.address, gpu=job.device != "cpu")
    device = choose_device(job.device)
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    # On a CPU one worker: a single job already uses all cores.
    return LocalPool(make, workers=job.workers or gpus or 1, most=tasks, shares_cores=True, gpus=gpus)


def make_work(device: DeviceName, dtype: DtypeName) -> Callable[[tuple[SyncJob, Any]], dict[str, Any]]:
    """What a worker does: it keeps the last model, and answers failures instead of raising them."""
    held: dict[str, LipModel] = {}

    def work(content: tuple[SyncJob, Any]) -> dict[str, Any]:
        job, recipe = content
        key = f"{job.model}:{recipe.sampling.resolution}"
        try:
            if key not in held:
                # Before the next one is loaded: two models at once may not fit.
                held.clear()
                held[key] = _load(job.model, recipe.sampling.resolution, device, dtype)
            return {"state": "done", "result": run(job, recipe, ignore, model=held[key]).as_dict()}
        except LatentSyncError as error:
            # These would fail every other job as well, so they end the batch.
            if describe_fault(error).is_disk_full or isinstance(error, MemoryShortage):
                raise
            return {
                "state": "failed",
                "error": str(error),
                "hint": error.hint,
                "exit_code": error.exit_code,
            }

    return work


def _load(name: str, resolution: int | None, device: DeviceName, dtype: DtypeName) -> LipModel:
    chosen = choose_device(device)
    spec = find_model(name, resolution=resolution)
    return load_model(spec, device=chosen, dtype=choose_dtype(dtype, chosen))


def _sweep(task: Task) -> None:
    """Remove what a worker that was ended left of its output."""
    with suppress(OSError):
        sweep_parts(_output_of(task.content[0]).parent)


def _key(row: BatchRow) -> str:
    return str(row.job.output)


def _output_of(job: SyncJob) -> Path:
    if job.output is None:
        raise UsageError("a job of a batch has no output", hint="fill the column 'output'")
    return job.output


def _digest(row: BatchRow) -> str:
    """Changes with whatever changes the result: options, recipe, and size and time of the inputs."""
    # Without `force`, which decides whether a file is replaced, not what is in it.
    facts = {name: str(value) for name, value in asdict(replace(row.job, force=False)).items()}
    inputs = [_stamp(path) for path in row.job.inputs]
    text = json.dumps([facts, inputs, dump_recipe(row.recipe)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _plan_lines(
    job: BatchJob, rows: Sequence[BatchRow], outcomes: dict[int, JobOutcome], workers: str
) -> tuple[str, ...]:
    counts = Counter(outcome.status for outcome in outcomes.values())
    before = "".join(f", {count} {status} before" for status, count in counts.items())
    models = ", ".join(sorted({row.job.model for row in rows}))
    return (
        f"jobs     {job.jobs} ({len(rows)}: {len(rows) - len(outcomes)} to do{before})",
        f"model    {models}",
        f"workers  {workers}",
        f"output   {job.out}",
    )
