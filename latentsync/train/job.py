"""What a training command is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latentsync.errors import LatentSyncError
from latentsync.runtime import DeviceName
from latentsync.train.checkpoint import find_best, find_last
from latentsync.train.clips import find_clips
from latentsync.train.loop import Ending, Reason
from latentsync.train.pictures import DecodedCache
from latentsync.train.setup import UsableClips


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Where a training happens.

    data           an out folder of `preprocess`, its manifest, or a folder of processed clips
    output         takes checkpoints, log, pictures and videos; a run in it is continued
    workers        processes that read data; None takes one for each core but one
    decoded_cache  whether clips are decoded once, beforehand; "auto" does when all of them fit 8 GB
    stop_after_s   save and stop after so many seconds of training
    """

    data: Path = Path("data")
    output: Path
    device: DeviceName = "auto"
    workers: int | None = None
    decoded_cache: DecodedCache = "auto"
    stop_after_s: float | None = None
    dry_run: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came of it.

    weights   the averaged network of the best checkpoint; None after a dry run
    reason    "finished", or why it stopped before: "signal", "time"; "planned" after a dry run
    measures  the last validation
    plan      the recipe and what it would need, after a dry run
    """

    output: Path
    weights: Path | None
    checkpoint: Path | None
    reason: Reason | str
    samples: int
    steps: int
    clips: int
    dropped: int
    took_s: float
    measures: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    is_main: bool = True

    def as_dict(self) -> dict[str, object]:
        """The result for JSON."""
        return asdict(self)


def need_best(job: TrainingJob) -> Path:
    """The best checkpoint of a run that has ended.

    Raises:
        LatentSyncError: there is none.
    """
    best = find_best(job.checkpoints)
    if best is None:
        raise LatentSyncError(
            f"'{job.checkpoints}': there is no checkpoint", hint="run the same command again"
        )
    return best


def result_of(
    job: TrainingJob, clips: UsableClips, ending: Ending, *, weights: Path, took_s: float, is_main: bool
) -> TrainingResult:
    """What came of a run that has ended."""
    validations = [row["validation"] for row in ending.rows if "validation" in row]
    return TrainingResult(
        output=job.output,
        weights=weights,
        checkpoint=find_last(job.checkpoints),
        reason=ending.reason,
        samples=ending.position.samples,
        steps=ending.position.steps,
        clips=len(clips.training),
        dropped=len(clips.dropped),
        took_s=took_s,
        measures=validations[-1] if validations else {},
        is_main=is_main,
    )


def count_clips(job: TrainingJob, *, held_out: Sequence[str]) -> tuple[int, str]:
    """How many clips there are to train on, and a line for the plan of a dry run."""
    if not job.data.exists():
        return 0, f"data: {job.data}: not there yet"
    training, validation = find_clips(job.data, held_out=held_out)
    counted = f"{len(training)} clips to train on, {len(validation)} to validate on"
    return len(training), f"data: {job.data}: {counted}"


def planned_result(job: TrainingJob, plan: dict[str, Any], *, clips: int) -> TrainingResult:
    """What a dry run answers."""
    return TrainingResult(
        output=job.output,
        weights=None,
        checkpoint=find_last(job.checkpoints),
        reason="planned",
        samples=0,
        steps=0,
        clips=clips,
        dropped=0,
        took_s=0.0,
        plan=plan,
    )
