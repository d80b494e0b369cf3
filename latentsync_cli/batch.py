"""`latentsync sync --batch`: what is shown of many jobs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from latentsync_cli import console
from latentsync_cli.options import AutoDtype, Engine

if TYPE_CHECKING:
    from latentsync.sync.batch import BatchResult, JobOutcome
    from latentsync.sync.options import SyncOptions

SOME_FAILED = 8  # the exit code of a batch in which a job failed


class BatchFlags(NamedTuple):
    """The flags that concern a whole batch."""

    device: str
    dtype: AutoDtype
    engine: Engine
    address: str | None
    workers: int | None
    retry_failed: bool
    dry_run: bool


def run_list(
    jobs: Path,
    out: Path | None,
    options: SyncOptions,
    model: str,
    flags: BatchFlags,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the jobs, show how each ended, and end with exit code 8 if one failed.

    With JSON, stdout has one object per line: one for each job as soon as it ends, then the counts.
    """
    from latentsync.sync.batch import BatchJob, run_batch

    for_each = {name: value for name, value in options.items() if name not in ("report", "dry_run")}
    job = BatchJob(
        jobs=jobs,
        out=out or Path(f"{jobs.stem}_synced"),
        defaults=cast("SyncOptions", for_each),
        model=model,
        **flags._asdict(),
    )

    def show_line(outcome: JobOutcome) -> None:
        if as_json:
            _print_line(outcome.as_dict())

    result = run_batch(job, console.make_report(quiet), each=show_line)
    console.end_bars()
    if as_json:
        _print_line(result.as_dict())
    else:
        _show_table(result)
    if result.count("failed"):
        hint = "" if job.retry_failed else "; --retry-failed tries them again"
        console.print_message(f"{result.count('failed')} of {len(result.outcomes)} jobs failed{hint}")
        raise SystemExit(SOME_FAILED)


def _show_table(result: BatchResult) -> None:
    rows = [_cells(outcome) for outcome in result.outcomes]
    console.table("", rows, columns=("row", "status", "frames", "seconds", "output or error"))


def _cells(outcome: JobOutcome) -> tuple[str, ...]:
    made = outcome.result or {}
    status = f"{outcome.status} before" if outcome.is_earlier else outcome.status
    last = outcome.error or os.fspath(_shortened(outcome.output))
    return str(outcome.row), status, str(made.get("frames", "")), str(made.get("took_s", "")), last


def _shortened(path: Path) -> Path:
    """The path from here, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _print_line(values: dict[str, object]) -> None:
    console.end_bars()
    print(json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace").decode(), flush=True)
