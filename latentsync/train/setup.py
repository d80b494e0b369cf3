"""What a training command is given and returns, and what it does before its first step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from latentsync.errors import UsageError
from latentsync.events import Note, Plan, Report, format_duration
from latentsync.files import sweep_parts, whole_or_nothing
from latentsync.manifest import ManifestClip
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.schema import Recipe
from latentsync.recipe.training import RunTable, TrainingRecipe
from latentsync.runtime import DeviceName, choose_device, usable_cores
from latentsync.train.checkpoint import find_last
from latentsync.train.clips import (
    DecodedCache,
    Dropped,
    check_clips,
    find_clips,
    fingerprint,
    refuse_nothing_left,
)
from latentsync.train.estimate import estimate
from latentsync.train.loop import Batch, Ending, Objective, Reason

MOST_READERS = 16
LOCK_NAME = "training.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Where a training happens.

    data           an output folder of `preprocess`, its manifest, or a folder of processed clips
    output         takes checkpoints, log, pictures and videos; a run in it is resumed
    workers        processes that read data; None takes one for each core but one
    decoded_cache  whether clips are decoded once, beforehand; "auto" does when all of them fit 8 GB
    decoder        of clips that are not decoded beforehand; "auto": decord on CUDA, where it is installed
    stop_after_s   save and stop after that many seconds of training
    trackers       where it is shown: tensorboard, wandb, mlflow
    """

    data: Path = Path("data")
    output: Path
    device: DeviceName = "auto"
    workers: int | None = None
    decoded_cache: DecodedCache = "auto"
    decoder: Literal["auto", "pyav", "decord"] = "auto"
    stop_after_s: float | None = None
    trackers: Sequence[str] = ("tensorboard",)
    dry_run: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    @property
    def readers(self) -> int:
        """How many processes read data."""
        if self.workers is not None:
            return self.workers
        # The processes that torchrun started on this machine share its cores.
        return min(MOST_READERS, max(1, usable_cores() - 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a training ended.

    weights   the EMA weights of the best checkpoint; None after a dry run
    reason    "finished", or why it stopped early: "signal", "time"; "planned" after a dry run
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


@dataclass(frozen=True, slots=True)
class UsableClips:
    """The clips to train on and to validate on, and those that were dropped."""

    training: list[ManifestClip]
    validation: list[ManifestClip]
    dropped: list[Dropped]

    @property
    def fingerprint(self) -> str:
        """A short hash of what is trained on, in its order: another one means other data."""
        return fingerprint(self.training)


def keep_usable(
    job: TrainingJob,
    found: tuple[list[ManifestClip], list[ManifestClip]],
    check: Callable[[ManifestClip], None],
    accelerator: Accelerator,
    report: Report,
    *,
    shorter: str,
) -> UsableClips:
    """Run `check` on the clips to train and to validate on, and drop those that it refuses.

    The processes share the work and agree on what was dropped.

    Args:
        shorter: what in the recipe to lower, so that shorter clips can be used.

    Raises:
        MediaError: no clip is left to train on.
    """
    every = [*found[0], *found[1]]
    share = every[accelerator.process_index :: accelerator.num_processes]
    refused = check_clips(share, check, workers=max(1, job.readers), report=report)
    # Sorted, so that the list does not depend on which process checked which clip.
    dropped = sorted(gather_object(refused), key=lambda drop: drop.name)
    names = {drop.name for drop in dropped}
    training, validation = ([clip for clip in part if clip.name not in names] for part in found)
    refuse_nothing_left(job.data, len(training), dropped, shorter=shorter)
    return UsableClips(training, validation, dropped)


@contextmanager
def started(
    job: TrainingJob,
    recipe: TrainingRecipe,
    clips: UsableClips,
    accelerator: Accelerator,
    report: Report,
    *,
    lines: Sequence[str] = (),
) -> Iterator[None]:
    """Own the output (see `owned_output`) and say what will be done.

    Args:
        lines: more of the plan, after the data.

    Raises:
        UsageError: another training is writing to the output.
    """
    if not accelerator.is_main_process:
        yield
        return
    with owned_output(job.output, recipe, dropped=clips.dropped):
        _announce(job, recipe.run, clips, accelerator, report, lines)
        yield


def result_of(
    job: TrainingJob, clips: UsableClips, ending: Ending, weights: Path, *, started_s: float, is_main: bool
) -> TrainingResult:
    """The result of a run that has ended.

    Args:
        started_s: when it started, by `time.monotonic`.
    """
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
        took_s=time.monotonic() - started_s,
        measures=validations[-1] if validations else {},
        is_main=is_main,
    )


def planned(
    job: TrainingJob,
    recipe: TrainingRecipe,
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    report: Report,
    *,
    frozen: Sequence[nn.Module],
    lines: Sequence[str] = (),
) -> TrainingResult:
    """Report what a training would need; of the data only the clips are counted.

    Args:
        model, batch, frozen: on the meta device, as `estimate` takes them.
        lines: more of the plan, after the data.
    """
    device, processes = choose_device(job.device), int(os.environ.get("WORLD_SIZE", "1"))
    needs = estimate(model, objective, batch, recipe.run, frozen=frozen, device=device, processes=processes)
    if job.data.exists():
        training, validation = find_clips(job.data, held_out=recipe.held_out)
        data = f"{count(len(training), 'clip')} to train on, {len(validation)} to validate on"
    else:
        training, data = [], "does not exist yet"
    report(Plan((f"data: {job.data}: {data}", *lines, *needs.lines())))
    return TrainingResult(
        output=job.output,
        weights=None,
        checkpoint=find_last(job.checkpoints),
        reason="planned",
        samples=0,
        steps=0,
        clips=len(training),
        dropped=0,
        took_s=0.0,
        plan={"recipe": recipe.model_dump(mode="json"), **needs.as_dict()},
    )


def count(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    >>> count(1, "process", "processes"), count(3, "clip")
    ('1 process', '3 clips')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _announce(
    job: TrainingJob,
    run: RunTable,
    clips: UsableClips,
    accelerator: Accelerator,
    report: Report,
    lines: Sequence[str],
) -> None:
    processes, dropped = accelerator.num_processes, len(clips.dropped)
    rounds = run.batch_samples // (run.micro_batch_samples * processes)
    seconds = sum(clip.frames for clip in clips.training) / VIDEO_FPS
    is_cpu_half = run.precision == "fp16" and accelerator.device.type == "cpu"
    precision = "fp32 (no fp16 on a CPU)" if is_cpu_half else run.precision
    running = count(processes, "process", "processes")
    plan = (
        f"data: {job.data}: {count(len(clips.training), 'clip')} ({format_duration(seconds)}) to train on,"
        f" {len(clips.validation)} to validate on, {dropped} dropped",
        *lines,
        f"device: {accelerator.device}, {running}, {precision}",
        f"batch: {count(run.batch_samples, 'sample')} = {running} x {run.micro_batch_samples}"
        f" x {count(rounds, 'round')} of accumulation; {count(run.samples, 'sample')} in all",
        f"output: {job.output}",
    )
    report(Plan(plan))
    if dropped:
        first = clips.dropped[0]
        report(
            Note(
                f"{count(dropped, 'clip is', 'clips are')} dropped (see {job.output / 'dropped.jsonl'}); the"
                f" first: {first.name}: {first.detail}",
                "warning",
            )
        )
    if not clips.validation:
        report(Note("no clip is held out: nothing is validated; set held_out in the recipe", "warning"))


@contextmanager
def owned_output(output: Path, recipe: Recipe, *, dropped: Sequence[Dropped] = ()) -> Iterator[None]:
    """Let one training at a time write to `output`, which gets the recipe and the dropped clips.

    On file systems without locks every training may.

    Raises:
        UsageError: another training is writing to the output.
    """
    import fcntl

    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"'{output}': another training run is writing here",
                hint="wait for it, stop it, or give another --output",
            ) from error
        except OSError:
            pass
        for folder in (output, output / "checkpoints", output / "pictures"):
            sweep_parts(folder)
        # A checkpoint keeps a recipe of its own: this one is replaced each time the run is resumed.
        drops = "".join(f"{json.dumps(asdict(drop), ensure_ascii=False)}\n" for drop in dropped)
        for name, text in (("recipe.toml", dump_recipe(recipe)), ("dropped.jsonl", drops)):
            with whole_or_nothing(output / name) as part:
                part.write_text(text, encoding="utf-8")
        yield
