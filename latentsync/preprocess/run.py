"""Makes training clips out of raw videos: the core of the `preprocess` command."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentsync.errors import MediaError, UsageError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.files import free_bytes, sweep_parts
from latentsync.manifest import (
    CLIPS,
    FEATURES,
    PARQUET,
    Count,
    Decision,
    Flag,
    fault_of,
    write_manifest,
)
from latentsync.preprocess.chain import make_work, remove_clips
from latentsync.preprocess.layouts import FoundSources, LayoutName, find_sources
from latentsync.preprocess.measure_quality import has_hyperiqa
from latentsync.preprocess.step import Source
from latentsync.preprocess.summary import FILTERS, Funnel, count_decisions, draw_pictures
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.runtime import DeviceName, choose_device
from latentsync.weights.catalog import find_entry
from latentsync.weights.hub import is_present
from latentsync.workers.local import LocalPool
from latentsync.workers.log import Entry, Log, Shard, are_others_running, one_at_a_time, read_past
from latentsync.workers.outputs import RECIPE, explained, keep_recipe, sweep
from latentsync.workers.pool import Attempt, EngineName, Rules, Task, WorkerPool, run_tasks
from latentsync.workers.ray import RayPool


@dataclass(frozen=True, slots=True)
class _Settled:
    """What an entry of the log that settles a source has, beside the times.

    bytes      size of the source; None if it could not be read
    is_unread  the source could not be opened by its name
    """

    bytes: Count | None
    decisions: list[Decision]
    is_unread: Flag = False


_SETTLED = TypeAdapter(_Settled)
LOG, LOCK = "log", "merge.turn"
_SHOWN_REASONS = 4  # beside the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessJob:
    """What to process, into which folder, and with how many workers.

    raw      a folder of videos, a list of paths (*.txt), or one video
    layout   in which its data set is distributed; see `find_sources`
    workers  None: one per core
    limit_s  a source that takes longer fails, like one that kills its worker
    """

    raw: Path
    out: Path
    layout: LayoutName = "folder"
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

    sources   how many this shard has
    before    how many of them were finished when the run began
    done      how many this run finished; in a dry run, how many are left
    manifest  None after a dry run, and while other shards run: the last of them writes it
    funnel    over everything in the output folder; None after a dry run
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
        """The result in values that JSON can express."""
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
    """The work of one shard.

    sources     how many the shard has
    tasks       those that are not finished
    unreadable  what cannot be read, by name, and why; without what an earlier run logged already
    readable    what an earlier run could not read, and now can be read or does not exist
    """

    sources: int
    tasks: list[Task]
    unreadable: dict[str, str]
    readable: list[str]
    other_files: int


def run(job: PreprocessJob, recipe: PreprocessRecipe, report: Report) -> PreprocessResult:
    """Process the sources of `job` that are not finished, and write the manifest of those that are.

    Raises:
        UsageError: the folders or flags do not fit together, or another run works on the same shard.
        RecipeError: the output folder was made with another recipe.
        MediaError: the raw folder cannot be read, the output folder cannot be written, or its disk is full.
        WeightsError: the weights of a network that the recipe names are missing.
    """
    started = time.monotonic()
    found = find_sources(job.raw, job.layout)
    if not found.sources and not found.unreadable:
        raise MediaError(
            f"'{job.raw}': contains no videos, only {found.other_files} other files",
            hint="name a folder of videos",
        )
    for note in found.notes:
        report(Note(note, "warning"))
    with explained(job.out):
        _check_folders(job)
        if job.engine == "local":
            choose_device(job.device)  # raises before anything is written if this machine has no such device
        resolved = dump_recipe(_resolved(recipe))
        if not job.dry_run:
            job.out.mkdir(parents=True, exist_ok=True)
        if not job.dry_run or (job.out / RECIPE).exists():
            keep_recipe(job.out, resolved)
        if job.dry_run:
            todo, manifest = _todo(job, found), None
            _report_unreadable(todo, report)
            report(Plan(_plan_lines(job, _resolved(recipe), todo, workers="none, this is a dry run")))
        else:
            with closing(Log(job.out / LOG, job.shard)) as log:
                todo = _todo(job, found)
                _process_all(job, _resolved(recipe), todo, log, report)
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
    """Count the outcomes of everything in `out` and draw them, also while shards are running.

    Returns:
        The counts, and the pictures that were written into `out/summary`.

    Raises:
        MediaError: `out` is not a folder that `preprocess` wrote, or a line of its logs is damaged.
    """
    decisions = collect(out)
    if not decisions:
        raise MediaError(
            f"'{out}': no source is finished here", hint="name the output folder of a preprocess run"
        )
    with explained(out):
        return count_decisions(decisions), draw_pictures(out, decisions, report)


def collect(out: Path) -> list[Decision]:
    """All decisions in the logs of `out`: the last ones of each source."""
    entries = read_past(out / LOG).settled.values()
    return [decision for entry in entries for decision in _settled(entry).decisions]


def _settled(entry: Entry) -> _Settled:
    try:
        return _SETTLED.validate_python(entry.values)
    except ValidationError as error:
        raise entry.damaged(fault_of(error)) from error


def _check_folders(job: PreprocessJob) -> None:
    raw, out = (Path(os.path.realpath(path)) for path in (job.raw, job.out))  # never fails, unlike resolve
    if out.is_relative_to(raw) or raw.is_relative_to(out):
        raise UsageError(
            f"'{job.out}': this and '{job.raw}' are the same, or one contains the other",
            hint="choose an OUT folder outside RAW",
        )
    if job.out.exists() and not job.out.is_dir():
        raise UsageError(f"'{job.out}': is a file", hint="name a folder")
    if job.out.is_dir() and any(job.out.iterdir()) and not (job.out / RECIPE).exists():
        raise UsageError(
            f"'{job.out}': has files that preprocess did not write", hint="name a new or empty folder"
        )


def _resolved(recipe: PreprocessRecipe) -> PreprocessRecipe:
    """The recipe with "auto" replaced by what it means here, so that other machines measure the same."""
    sync, quality = recipe.sync, recipe.quality
    if sync.judge == "auto":
        has_v2 = is_present(find_entry("syncnet-v2"))
        sync = sync.model_copy(update={"judge": "syncnet-v2" if has_v2 else "compact"})
    if quality.measure == "auto":
        quality = quality.model_copy(update={"measure": "hyperiqa" if has_hyperiqa() else "sharpness"})
    return recipe.model_copy(update={"sync": sync, "quality": quality})


def _todo(job: PreprocessJob, found: FoundSources) -> _Todo:
    """What this shard has to do: sources that no log lists, that changed, or whose clips are missing."""
    past = read_past(job.out / LOG, has=job.shard.has)
    settled = {name: _settled(entry) for name, entry in past.settled.items()}
    sources, unreadable = found.sources, found.unreadable
    mine = [name for name in sources if job.shard.has(name)]
    left = [name for name in mine if not _is_finished(job, sources[name], settled.get(name))]
    new = [name for name, why in unreadable.items() if not _is_logged(settled.get(name), why)]
    unread = [name for name, entry in settled.items() if entry.is_unread]
    return _Todo(
        sources=len(mine),
        tasks=[Task(name, sources[name], past.tries[name]) for name in left],
        unreadable={name: unreadable[name] for name in new if job.shard.has(name)},
        readable=[name for name in unread if name not in unreadable and name not in sources],
        other_files=found.other_files,
    )


def _is_logged(entry: _Settled | None, why: str) -> bool:
    return entry is not None and entry.is_unread and [one.detail for one in entry.decisions] == [why]


def _is_finished(job: PreprocessJob, source: Source, entry: _Settled | None) -> bool:
    """Whether a source was logged, and neither it nor its clips changed since."""
    if entry is None:
        return False
    if job.retry_failed and any(decision.outcome == "failed" for decision in entry.decisions):
        return False
    clips = [decision.clip for decision in entry.decisions if decision.clip is not None]
    # The size, because hashing would read every source again at each start.
    return entry.bytes == _size_bytes(source) and all((job.out / clip).is_file() for clip in clips)


def _size_bytes(source: Source) -> int | None:
    """The size of a source with its sound; None if it cannot be read."""
    try:
        sound = source.sound
        sound_bytes = sound.stat().st_size if sound is not None and sound.is_file() else 0
        return source.path.stat().st_size + sound_bytes
    except OSError:
        return None


def _plan_lines(
    job: PreprocessJob, recipe: PreprocessRecipe, todo: _Todo, *, workers: str
) -> tuple[str, ...]:
    shard = "" if job.shard.count == 1 else f" in shard {job.shard.index}/{job.shard.count}"
    judge, quality = FILTERS[recipe.sync.judge], FILTERS[recipe.quality.measure]
    of = {"folder": "videos", "voxceleb2": "videos of VoxCeleb2", "hdtf": "clips of HDTF"}[job.layout]
    return (
        f"raw      {job.raw} ({todo.sources} {of}{shard}, {todo.other_files} other files)",
        f"to do    {len(todo.tasks)} videos, {todo.sources - len(todo.tasks)} are finished",
        f"filters  sync by {judge}, quality by {quality}",
        f"workers  {workers}",
        f"output   {job.out} ({free_bytes(job.out) / 1e9:.1f} GB free)",
    )


def _report_unreadable(todo: _Todo, report: Report) -> None:
    for name, why in todo.unreadable.items():
        report(Note(f"'{name}': {why}", "warning"))


def _process_all(job: PreprocessJob, recipe: PreprocessRecipe, todo: _Todo, log: Log, report: Report) -> None:
    _report_unreadable(todo, report)
    for name, why in todo.unreadable.items():
        decision = Decision(source=name, outcome="dropped", reason="unreadable", detail=why)
        log.append(name, {"bytes": None, "decisions": [asdict(decision)], "is_unread": True})
    for name in todo.readable:
        log.append(name, {"bytes": None, "decisions": []})
    if not todo.tasks:
        report(Plan(_plan_lines(job, recipe, todo, workers="none, nothing is left to do")))
        return
    pool = _worker_pool(job, recipe, len(todo.tasks))
    report(Plan(_plan_lines(job, recipe, todo, workers=f"{pool.size}, {pool.location}")))
    tally: Counter[str] = Counter()
    done, total = 0, len(todo.tasks)
    report(Progress("preprocess", 0, total, "videos"))
    try:
        attempts = run_tasks(pool, todo.tasks, Rules(limit_s=job.limit_s), drop=partial(_clear, job.out))
        with closing(attempts):
            for attempt in attempts:
                decisions = _take(job.out, log, attempt, report)
                tally.update(decision.reason or decision.outcome for decision in decisions)
                done += attempt.is_final
                report(Progress("preprocess", done, total, "videos", note=_counts(tally)))
    except KeyboardInterrupt:
        report(Note(f"{done} of {total} videos are done: run the same command again to resume", "warning"))
        raise


def _worker_pool(job: PreprocessJob, recipe: PreprocessRecipe, tasks: int) -> WorkerPool:
    make = partial(make_work, recipe, job.device, job.out.absolute())
    if job.engine == "ray":
        return RayPool(make, workers=job.workers, most=tasks, address=job.address, gpu=job.device != "cpu")
    return LocalPool(make, workers=job.workers, most=tasks)


def _clear(out: Path, task: Task) -> None:
    """Remove what was written of a source that was not finished."""
    remove_clips(task.content, out)


def _take(out: Path, log: Log, attempt: Attempt, report: Report) -> list[Decision]:
    """Log how an attempt ended; returns the decisions on the source unless another attempt follows."""
    name, failure, fault = attempt.task.key, attempt.failure, attempt.fault
    if failure is None:
        decisions, step_s = attempt.answer
        _settle(log, attempt.task.content, decisions, {"took_s": round(attempt.took_s, 3), "step_s": step_s})
        return list(decisions)
    _clear(out, attempt.task)
    fault.raise_if_fatal()
    log.append(name, {"failure": failure, "text": fault.text, "trace": fault.trace})
    follows = "given up" if attempt.is_final else "tried again at the end"
    report(Note(f"'{name}': {failure} ({fault.text}), {follows}", "warning"))
    if not attempt.is_final:
        return []
    # Nothing in the detail may differ between engines: the manifest is the same byte for byte.
    detail = fault.text if failure == "error" else f"{attempt.task.tries} times"
    given_up = Decision(source=name, outcome="failed", reason=failure, detail=detail)
    _settle(log, attempt.task.content, [given_up], {})
    return [given_up]


def _settle(log: Log, source: Source, decisions: list[Decision], measured: dict[str, Any]) -> None:
    values = {"bytes": _size_bytes(source), "decisions": [asdict(decision) for decision in decisions]}
    log.append(source.name, {**values, **measured})


def _counts(tally: Counter[str]) -> str:
    """The outcomes so far, the most frequent reasons first."""
    reasons = [(reason, count) for reason, count in tally.most_common() if reason != "kept"]
    parts = [f"{count} {reason}" for reason, count in reasons[:_SHOWN_REASONS]]
    rest = sum(count for _, count in reasons[_SHOWN_REASONS:])
    return ", ".join([f"{tally['kept']} kept", *parts, *([f"{rest} other"] if rest else [])])


def _merge(out: Path, recipe_toml: str, report: Report) -> Path | None:
    """Write the manifest of all shards, unless another one is still running: the last to end does it."""
    # Two shards that end together would otherwise leave the manifest to each other.
    with one_at_a_time(out / LOG / LOCK):
        others = are_others_running(out / LOG)
        if others:
            report(Note("other shards are running: the last one to finish writes the manifest"))
            return None
        decisions = collect(out)
        if others is not None:  # without locks nobody knows whose parts these are
            clips = {decision.clip for decision in decisions}
            hashes = {decision.sha256 for decision in decisions}
            sweep(out / CLIPS, is_wanted=lambda name: f"{CLIPS}/{name}" in clips)
            sweep(out / FEATURES, is_wanted=lambda name: name.split("/")[-1].split(".")[0] in hashes)
        sweep_parts(out)
        write_manifest(out, decisions, recipe=recipe_toml)
    return out / PARQUET
