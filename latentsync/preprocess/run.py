"""Makes training clips out of raw videos: the `preprocess` command's core."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

from latentsync.errors import MediaError, RecipeError, UsageError, WeightsError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.manifest import CLIPS, FEATURES, PARQUET, Decision, source_name, write_manifest
from latentsync.media.folder import Found, find_videos
from latentsync.preprocess.chain import process, remove_clips
from latentsync.preprocess.measure_quality import has_hyperiqa
from latentsync.preprocess.step import Source
from latentsync.preprocess.stopwatch import Stopwatch
from latentsync.preprocess.summary import Funnel, count_decisions, draw_pictures
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.runtime import DeviceName, choose_device
from latentsync.weights.cache import is_present
from latentsync.weights.catalog import find_entry
from latentsync.workers.local import LocalPool
from latentsync.workers.log import Log, Shard, are_others_running, read_past, turn
from latentsync.workers.outputs import RECIPE, explained, keep_recipe, nearest, sweep
from latentsync.workers.pool import Attempt, Rules, Task, Work, WorkerPool, run_tasks
from latentsync.workers.ray import RayPool

EngineName = Literal["local", "ray"]
LOG, TURN = "log", "merge.turn"
_NOTED_REASONS = 4  # beside the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessJob:
    """What to work on, where, and with how many workers.

    raw      a folder of videos, a list of paths (*.txt), or one video
    workers  None: one per core
    limit_s  a source that takes longer is given up, like one that kills its worker
    """

    raw: Path
    out: Path
    engine: EngineName = "local"
    address: str | None = None
    workers: int | None = None
    shard: Shard = field(default_factory=Shard)
    device: DeviceName = "auto"
    limit_s: float = 1800.0
    retry_failed: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PreprocessResult:
    """What was done.

    sources, before  of this shard: all, and those that were finished when the run began
    done             that this run finished; in a dry run, that are left to do
    manifest         None after a dry run, and while other shards run: the last of them writes it
    funnel           over all that is in the out folder; None after a dry run
    """

    out: Path
    sources: int
    before: int
    done: int
    other_files: int
    manifest: Path | None
    funnel: Funnel | None
    took_s: float

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return {
            "out": str(self.out),
            "manifest": None if self.manifest is None else str(self.manifest),
            "sources": self.sources,
            "finished_before": self.before,
            "finished_now" if self.funnel else "to_do": self.done,
            "other_files": self.other_files,
            "took_s": round(self.took_s, 2),
            "funnel": None if self.funnel is None else self.funnel.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class _Todo:
    """One shard: how many sources it has, the tasks that are left of them, and what cannot be read.

    unreadable  why, by name; what an earlier run noted already is left out
    readable    what could not be read in an earlier run, and now can or is gone
    """

    sources: int
    tasks: list[Task]
    unreadable: dict[str, str]
    readable: list[str]
    other_files: int


def run(job: PreprocessJob, recipe: PreprocessRecipe, report: Report) -> PreprocessResult:
    """Process the sources of `job` that are not finished, and write the manifest of all that are.

    Raises:
        UsageError: the folders or flags do not fit together, or another run works on the same shard.
        RecipeError: the out folder was made with another recipe.
        MediaError: the raw folder cannot be read, the out folder cannot be written, or its disk is full.
        WeightsError: a network that the recipe names is missing.
    """
    started = time.monotonic()
    found = find_videos(job.raw)
    if not found.videos and not found.unreadable:
        raise MediaError(
            f"'{job.raw}': holds no videos, {found.other_files} other files", hint="name a folder of videos"
        )
    with explained(job.out):
        _check_places(job)
        if job.engine == "local":
            choose_device(job.device)  # so that one that is not here is told before anything is written
        resolved = dump_recipe(_resolved(recipe))
        if not job.dry_run:
            job.out.mkdir(parents=True, exist_ok=True)
        if not job.dry_run or (job.out / RECIPE).exists():
            keep_recipe(job.out, resolved)
        if job.dry_run:
            todo, manifest = _todo(job, found), None
            _tell_unreadable(todo, report)
            report(Plan(_plan_lines(job, todo, place="nowhere, this is a dry run")))
        else:
            with closing(Log(job.out / LOG, job.shard)) as log:
                todo = _todo(job, found)
                _work_off(job, _resolved(recipe), todo, log, report)
            manifest = _merge(job.out, resolved, report)
    return PreprocessResult(
        out=job.out,
        sources=todo.sources,
        before=todo.sources - len(todo.tasks),
        done=len(todo.tasks),
        other_files=found.other_files,
        manifest=manifest,
        funnel=None if job.dry_run else count_decisions(collect(job.out)),
        took_s=time.monotonic() - started,
    )


def summarize(out: Path, report: Report) -> tuple[Funnel, list[Path]]:
    """Count what became of everything in `out` and draw it, while shards are running, too.

    Returns:
        The counts, and the pictures that were written into `out/summary`.

    Raises:
        MediaError: `out` is no folder that `preprocess` wrote.
    """
    decisions = collect(out)
    if not decisions:
        raise MediaError(f"'{out}': nothing is finished here", hint="name the out folder of a preprocess run")
    with explained(out):
        return count_decisions(decisions), draw_pictures(out, decisions, report)


def collect(out: Path) -> list[Decision]:
    """All decisions in the logs of `out`: the last ones of each source."""
    settled = read_past(out / LOG).settled
    return [Decision(**values) for entry in settled.values() for values in entry["decisions"]]


def _check_places(job: PreprocessJob) -> None:
    raw, out = (Path(os.path.realpath(path)) for path in (job.raw, job.out))  # never fails, unlike resolve
    if out.is_relative_to(raw) or raw.is_relative_to(out):
        raise UsageError(
            f"'{job.out}': this and '{job.raw}' are the same, or one holds the other",
            hint="let the results go to a folder beside the raw one",
        )
    if job.out.exists() and not job.out.is_dir():
        raise UsageError(f"'{job.out}': is a file", hint="name a folder")
    if job.out.is_dir() and any(job.out.iterdir()) and not (job.out / RECIPE).exists():
        raise UsageError(
            f"'{job.out}': holds files that preprocess did not write", hint="name a new or empty folder"
        )


def _resolved(recipe: PreprocessRecipe) -> PreprocessRecipe:
    """The recipe with what "auto" means here, so that other machines go on by the same measures."""
    sync, quality = recipe.sync, recipe.quality
    if sync.judge == "auto":
        has_v2 = is_present(find_entry("syncnet-v2"))
        sync = sync.model_copy(update={"judge": "syncnet-v2" if has_v2 else "compact"})
    if quality.measure == "auto":
        quality = quality.model_copy(update={"measure": "hyperiqa" if has_hyperiqa() else "sharpness"})
    return recipe.model_copy(update={"sync": sync, "quality": quality})


def _todo(job: PreprocessJob, found: Found) -> _Todo:
    """What this shard has to do: sources that are in no log, that changed, or whose clips are gone."""
    past = read_past(job.out / LOG, has=job.shard.has)
    sources = {_named(name): path for name, path in found.videos.items()}
    mine = [name for name in sources if job.shard.has(name)]
    left = [name for name in mine if not _is_finished(job, sources[name], past.settled.get(name))]
    unreadable = {_named(name): why for name, why in found.unreadable.items()}
    news = [name for name, why in unreadable.items() if not _is_noted(past.settled.get(name), why)]
    unread = [name for name, entry in past.settled.items() if entry.get("is_unread")]
    return _Todo(
        sources=len(mine),
        tasks=[Task(name, Source(sources[name], name), past.tries[name]) for name in left],
        unreadable={name: unreadable[name] for name in news if job.shard.has(name)},
        readable=[name for name in unread if name not in unreadable and name not in sources],
        other_files=found.other_files,
    )


def _named(name: str) -> str:
    return source_name(Path(name), Path())


def _is_noted(entry: dict[str, Any] | None, why: str) -> bool:
    return entry is not None and "is_unread" in entry and entry["decisions"][0]["detail"] == why


def _is_finished(job: PreprocessJob, path: Path, entry: dict[str, Any] | None) -> bool:
    """Whether a source was logged, and that still stands."""
    if entry is None:
        return False
    decisions = entry["decisions"]
    if job.retry_failed and any(decision["outcome"] == "failed" for decision in decisions):
        return False
    clips = [decision["clip"] for decision in decisions if decision["clip"] is not None]
    return bool(entry["bytes"] == _size_bytes(path)) and all((job.out / clip).is_file() for clip in clips)


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _plan_lines(job: PreprocessJob, todo: _Todo, *, place: str) -> tuple[str, ...]:
    shard = "" if job.shard.count == 1 else f" in shard {job.shard.index}/{job.shard.count}"
    free_gb = shutil.disk_usage(nearest(job.out)).free / 1e9
    return (
        f"raw     {job.raw} ({todo.sources} videos{shard}, {todo.other_files} other files)",
        f"to do   {len(todo.tasks)} videos, {todo.sources - len(todo.tasks)} are finished",
        f"where   {place}",
        f"output  {job.out} ({free_gb:.1f} GB free)",
    )


def _tell_unreadable(todo: _Todo, report: Report) -> None:
    for name, why in todo.unreadable.items():
        report(Note(f"'{name}': {why}", "warning"))


def _work_off(job: PreprocessJob, recipe: PreprocessRecipe, todo: _Todo, log: Log, report: Report) -> None:
    _tell_unreadable(todo, report)
    for name, why in todo.unreadable.items():
        decision = Decision(source=name, outcome="dropped", reason="unreadable", detail=why)
        log.append(name, {"bytes": None, "decisions": [asdict(decision)], "is_unread": True})
    for name in todo.readable:
        log.append(name, {"bytes": None, "decisions": []})
    if not todo.tasks:
        report(Plan(_plan_lines(job, todo, place="nothing is left to do")))
        return
    pool = _worker_pool(job, recipe, len(todo.tasks))
    report(Plan(_plan_lines(job, todo, place=f"{pool.size} workers: {pool.location}")))
    tally: Counter[str] = Counter()
    done, total = 0, len(todo.tasks)
    report(Progress("preprocess", 0, total, "videos"))
    try:
        ends = run_tasks(pool, todo.tasks, Rules(limit_s=job.limit_s), drop=partial(_clear, job.out))
        with _sigterm_as_ctrl_c(), closing(ends):
            for ended in ends:
                tally.update(
                    decision.reason or decision.outcome for decision in _take(job.out, log, ended, report)
                )
                done += ended.is_final
                report(Progress("preprocess", done, total, "videos", note=_counts(tally)))
    except KeyboardInterrupt:
        report(Note(f"{done} of {total} videos are done: the same command goes on from here", "warning"))
        raise


def _worker_pool(job: PreprocessJob, recipe: PreprocessRecipe, tasks: int) -> WorkerPool:
    make = partial(_make_work, recipe, job.device, job.out.absolute())
    if job.engine == "ray":
        return RayPool(make, workers=job.workers, most=tasks, address=job.address, gpu=job.device != "cpu")
    return LocalPool(make, workers=job.workers, most=tasks)


def _make_work(recipe: PreprocessRecipe, device: DeviceName, out: Path) -> Work:
    """Load what the steps need, once in each worker.

    One thread computes, because sums over several differ in their last digits with the number of threads:
    so the manifest depends neither on the engine nor on the number of workers.
    """
    import cv2
    import torch

    from latentsync.preprocess.order import build_steps  # here, so that the parent loads no network

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    watch = Stopwatch()
    steps = [watch.on(step) for step in build_steps(recipe, device=choose_device(device).type)]
    for step in steps:
        step.start()

    def work_on(source: Source) -> tuple[list[Decision], dict[str, float]]:
        decisions = process(source, steps, out)
        return decisions, watch.take()

    return work_on


def _clear(out: Path, task: Task) -> None:
    """Leave nothing of a source that was stopped half way."""
    remove_clips(task.content, out)


def _take(out: Path, log: Log, ended: Attempt, report: Report) -> list[Decision]:
    """Write down how a try ended; returns the decisions on the source if no other try follows."""
    name, failure, fault = ended.task.key, ended.failure, ended.fault
    if failure is None:
        decisions, step_s = ended.answer
        _settle(log, ended.task.content, decisions, {"took_s": round(ended.took_s, 3), "step_s": step_s})
        return list(decisions)
    _clear(out, ended.task)
    if fault.is_disk_full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if isinstance(fault.error, WeightsError | RecipeError | UsageError):
        raise fault.error  # every other source would meet it, too
    log.append(name, {"failure": failure, "text": fault.text, "trace": fault.trace})
    follows = "it is given up" if ended.is_final else "it is tried again at the end"
    report(Note(f"'{name}': {failure} ({fault.text}), {follows}", "warning"))
    if not ended.is_final:
        return []
    # Nothing in the detail that differs between engines: the manifest is the same byte for byte.
    detail = fault.text if failure == "error" else f"{ended.task.tries} times"
    given_up = Decision(source=name, outcome="failed", reason=failure, detail=detail)
    _settle(log, ended.task.content, [given_up], {})
    return [given_up]


def _settle(log: Log, source: Source, decisions: list[Decision], measured: dict[str, Any]) -> None:
    values = {"bytes": _size_bytes(source.path), "decisions": [asdict(decision) for decision in decisions]}
    log.append(source.name, {**values, **measured})


def _counts(tally: Counter[str]) -> str:
    """What became of the clips so far, the most frequent reasons first."""
    reasons = [(reason, count) for reason, count in tally.most_common() if reason != "kept"]
    parts = [f"{count} {reason}" for reason, count in reasons[:_NOTED_REASONS]]
    rest = sum(count for _, count in reasons[_NOTED_REASONS:])
    return ", ".join([f"{tally['kept']} kept", *parts, *([f"{rest} other"] if rest else [])])


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Answer a batch system's SIGTERM like Ctrl-C."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever called us answers signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _merge(out: Path, recipe_toml: str, report: Report) -> Path | None:
    """Write the manifest of all shards, unless another one is still running and will do it."""
    with turn(out / LOG / TURN):
        if are_others_running(out / LOG):
            report(Note("other shards are running: the last one to end writes the manifest"))
            return None
        decisions = collect(out)
        clips = {decision.clip for decision in decisions}
        hashes = {decision.sha256 for decision in decisions}
        sweep(out / CLIPS, is_wanted=lambda name: f"{CLIPS}/{name}" in clips)
        sweep(out / FEATURES, is_wanted=lambda name: name.split("/")[-1].split(".")[0] in hashes)
        write_manifest(out, decisions, recipe=recipe_toml)
    return out / PARQUET
