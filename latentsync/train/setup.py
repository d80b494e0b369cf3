"""What every training does before its first step: keep the usable clips, say the plan, write it down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from latentsync.events import Note, Plan, Report
from latentsync.manifest import ManifestClip
from latentsync.recipe.loading import dump_recipe
from latentsync.recipe.schema import Recipe
from latentsync.recipe.training import RunTable
from latentsync.train.clips import VIDEO_FPS, Dropped, check_clips
from latentsync.train.estimate import say_duration

MOST_READERS = 16


@dataclass(frozen=True, slots=True)
class UsableClips:
    """The clips to train on and to validate on, and those that were dropped."""

    training: list[ManifestClip]
    validation: list[ManifestClip]
    dropped: list[Dropped]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a training reads and writes."""

    data: Path
    output: Path


def count_readers(asked: int | None) -> int:
    """How many processes read data: as many as were asked for, or one for each core but one."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_READERS, max(1, cores - 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_usable(
    found: tuple[list[ManifestClip], list[ManifestClip]],
    check: Callable[[ManifestClip], None],
    accelerator: Accelerator,
    *,
    workers: int,
    report: Report,
) -> UsableClips:
    """Run `check` on the clips to train and to validate on, and drop those that it refuses.

    The processes share the work and agree on what was dropped. It may be everything.
    """
    every = [*found[0], *found[1]]
    share = every[accelerator.process_index :: accelerator.num_processes]
    refused = check_clips(share, check, workers=max(1, workers), report=report)
    dropped = sorted(gather_object(refused), key=lambda drop: drop.name)
    names = {drop.name for drop in dropped}
    training, validation = ([clip for clip in part if clip.name not in names] for part in found)
    return UsableClips(training, validation, dropped)


def announce(
    run: RunTable,
    clips: UsableClips,
    accelerator: Accelerator,
    places: Places,
    report: Report,
    *,
    lines: Sequence[str] = (),
) -> None:
    """Say what will be done; `lines` come after the data."""
    processes = accelerator.num_processes
    rounds = run.batch_samples // (run.micro_batch_samples * processes)
    seconds = sum(clip.frames for clip in clips.training) / VIDEO_FPS
    is_half_left_out = run.precision == "fp16" and accelerator.device.type == "cpu"
    report(
        Plan(
            (
                f"data: {places.data}: {len(clips.training)} clips ({say_duration(seconds)}) to train on,"
                f" {len(clips.validation)} to validate on, {len(clips.dropped)} dropped",
                *lines,
                f"device: {accelerator.device}, {processes} processes,"
                f" {'fp32 (no fp16 on a CPU)' if is_half_left_out else run.precision}",
                f"batch: {run.batch_samples} samples = {processes} processes x {run.micro_batch_samples}"
                f" x {rounds} rounds; {run.samples} samples in all",
                f"output: {places.output}",
            )
        )
    )
    if clips.dropped:
        first = clips.dropped[0]
        report(
            Note(
                f"{len(clips.dropped)} clips are dropped (all in {places.output / 'dropped.jsonl'}); the"
                f" first: {first.name}: {first.detail}",
                "warning",
            )
        )
    if not clips.validation:
        report(Note("no clip is held out: nothing is validated; set held_out in the recipe", "warning"))


def write_beginning(output: Path, recipe: Recipe, dropped: Sequence[Dropped]) -> None:
    """Write the recipe and the list of dropped clips beside the run; a checkpoint keeps its own recipe."""
    output.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(asdict(drop), ensure_ascii=False)}\n" for drop in dropped)
    for name, text in (("recipe.toml", dump_recipe(recipe)), ("dropped.jsonl", lines)):
        part = output / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, output / name)
