"""`latentsync sync --batch`: what is shown of many jobs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.errors import UsageError
from latentsync_cli import console

if TYPE_CHECKING:
    from latentsync.sync.batch import BatchJob, BatchResult, JobOutcome

SOME_FAILED = 8  # the exit code of a batch in which a job failed


def refuse_single_job(batch: Path, video: Path | None, report: Path | None) -> None:
    """Refuse what only a single job takes.

    Raises:
        UsageError: VIDEO or --report is given beside --batch.
    """
    if video is not None or report is not None:
        raise UsageError(
            f"--batch '{batch}' takes neither VIDEO and SPEECH nor --report",
            hint="write them in the list, as columns video, speech and report",
        )


def run_list(job: BatchJob, *, as_json: bool, quiet: bool) -> None:
    """Run the jobs, show how each ended, and end with exit code 8 if one failed.

    With JSON, stdout has one object per line: one for each job as soon as it ends, then the counts.
    """
    from latentsync.sync.batch import run_batch

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
