"""Trains the SyncNet: do these frames and this speech belong together?"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from latentsync.errors import LatentSyncError
from latentsync.events import Plan, Report, ignore
from latentsync.models.vae import FaceVAE
from latentsync.recipe.training import SyncNetNetwork, SyncNetRecipe
from latentsync.runtime import DeviceName, choose_device
from latentsync.training.beginning import (
    Places,
    UsableClips,
    announce,
    count_readers,
    keep_usable,
    write_beginning,
)
from latentsync.training.estimate import Estimate, estimate, say_bytes, say_duration
from latentsync.training.loop import Ending, Reason, Score, TrainingRun, train
from latentsync.training.pictures import DecodedCache
from latentsync.training.processed import Features, find_clips, fingerprint, refuse_nothing_left
from latentsync.training.processes import make_accelerator
from latentsync.training.saving import AVERAGE, find_best, find_last
from latentsync.training.syncnet_check import make_validate
from latentsync.training.syncnet_kinds import Place, choose_kind
from latentsync.training.syncnet_step import Pairs, SyncNetInTraining
from latentsync.training.syncnet_watch import SyncNetWatch

WEIGHTS_NAME = "syncnet.safetensors"
REMEMBERED_PAIRS = 2000  # for the picture of predicted probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSyncNetJob:
    """Where a training happens.

    data           an out folder of `preprocess`, its manifest, or a folder of processed clips
    output         takes checkpoints, log and pictures; a run in it is continued
    workers        processes that read data; None takes one for each core but one
    decoded_cache  whether clips are decoded once, beforehand; "auto" does when all of them fit 8 GB
    stop_after_s   save and stop after so many seconds of training
    """

    data: Path = Path("data")
    output: Path = Path("runs/syncnet")
    device: DeviceName = "auto"
    workers: int | None = None
    decoded_cache: DecodedCache = "auto"
    stop_after_s: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSyncNetResult:
    """What came of it.

    weights   the averaged network of the best checkpoint; None after a dry run
    reason    "finished", or why it stopped before: "signal", "time"; "planned" after a dry run
    measures  the last validation
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


def run(job: TrainSyncNetJob, recipe: SyncNetRecipe, report: Report) -> TrainSyncNetResult:
    """Train as `recipe` says, from the last checkpoint in the output if there is one.

    Raises:
        RecipeError: sizes do not fit, a checkpoint is of another recipe, or the loss is no number any more.
        MediaError: there is no data, or none that can be used.
        WeightsError: a checkpoint is damaged, or an autoencoder is missing.
        MemoryShortage: the batch does not fit.
    """
    started = time.monotonic()
    device = choose_device(job.device)
    if job.dry_run:
        return _plan(job, recipe, device, report)
    accelerator = make_accelerator(recipe.run, device)
    report = report if accelerator.is_main_process else ignore
    found, workers = find_clips(job.data, held_out=recipe.held_out), count_readers(job.workers)
    pairs: Pairs = deque(maxlen=REMEMBERED_PAIRS)
    place = Place([*found[0], *found[1]], Features.beside(job.data, job.output), job.decoded_cache)
    kind = choose_kind(recipe, place, _load_vae(recipe.network, accelerator.device), pairs)
    clips = keep_usable(found, kind.check, accelerator, workers=workers, report=report)
    refuse_nothing_left(job.data, len(clips.training), clips.dropped)
    torch.manual_seed(recipe.seed)  # model initialisation
    network = kind.build()
    if recipe.run.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    temperature = recipe.loss.temperature if recipe.loss.kind == "contrastive" else None
    announce(recipe.run, clips, accelerator, Places(job.data, job.output), report)
    if accelerator.is_main_process:
        write_beginning(job.output, recipe, clips.dropped)
    ending = train(
        TrainingRun(
            recipe=recipe,
            run=recipe.run,
            optimizer=recipe.optimizer,
            model=SyncNetInTraining(network, temperature=temperature),
            network="network",
            kind=kind.checkpoint,
            config=kind.config,
            step=kind.step,
            weights={recipe.loss.kind: 1.0},
            samples=kind.samples(clips.training),
            data=fingerprint(clips.training),
            output=job.output,
            validate=make_validate(recipe, clips.validation, kind.compare) if clips.validation else None,
            validate_every_samples=recipe.validation.every_samples,
            score=Score(
                recipe.validation.best_by, "lower" if recipe.validation.best_by == "loss" else "higher"
            ),
            on_log=SyncNetWatch(recipe, clips.training, pairs, job.output, report),
            workers=workers,
            stop_after_s=job.stop_after_s,
        ),
        accelerator,
        report,
    )
    return _finish(job, clips, ending, accelerator, took_s=time.monotonic() - started)


def _load_vae(network: SyncNetNetwork, device: torch.device) -> FaceVAE | None:
    if network.space == "pixel":
        return None
    from latentsync.weights.cache import need
    from latentsync.weights.released import vae_from_released

    return vae_from_released(need(network.vae), device=device).requires_grad_(False)


def _finish(
    job: TrainSyncNetJob, clips: UsableClips, ending: Ending, accelerator: Accelerator, *, took_s: float
) -> TrainSyncNetResult:
    """Put the best averaged network where a user looks for it."""
    checkpoints = job.output / "checkpoints"
    best, weights = find_best(checkpoints), job.output / WEIGHTS_NAME
    if best is None:
        raise LatentSyncError(f"'{checkpoints}': there is no checkpoint", hint="run the same command again")
    if accelerator.is_main_process:
        part = weights.with_name(f"{weights.name}.part")
        shutil.copyfile(best / AVERAGE, part)
        os.replace(part, weights)
    validations = [row["validation"] for row in ending.rows if "validation" in row]
    return TrainSyncNetResult(
        output=job.output,
        weights=weights,
        checkpoint=find_last(checkpoints),
        reason=ending.reason,
        samples=ending.position.samples,
        steps=ending.position.steps,
        clips=len(clips.training),
        dropped=len(clips.dropped),
        took_s=took_s,
        measures=validations[-1] if validations else {},
        is_main=accelerator.is_main_process,
    )


def _plan(
    job: TrainSyncNetJob, recipe: SyncNetRecipe, device: torch.device, report: Report
) -> TrainSyncNetResult:
    """What a run would need; the data is only counted."""
    place = Place([], Features(job.output), "no")
    kind = choose_kind(recipe, place, None, deque())

    def build() -> SyncNetInTraining:
        network = kind.build()
        if recipe.run.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return SyncNetInTraining(network, temperature=None)

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    needed = estimate(build, kind.inputs, recipe.run, device=device, processes=processes)
    has_data = job.data.exists()
    training, validation = find_clips(job.data, held_out=recipe.held_out) if has_data else ([], [])
    counted = f"{len(training)} clips to train on, {len(validation)} to validate on"
    report(
        Plan(
            (
                f"data: {job.data}: {counted if has_data else 'not there yet'}",
                f"parameters: {needed.parameters / 1e6:.2f} million",
                f"memory: about {say_bytes(needed.memory_bytes)} on each {device.type} device:"
                f" {say_bytes(needed.state_bytes)} for weights, gradients, optimizer and average,"
                f" {say_bytes(needed.activation_bytes)} for {recipe.run.micro_batch_samples} samples at once",
                f"time: about {say_duration(needed.total_s)} for {recipe.run.samples} samples"
                f" ({needed.samples_per_s:.3g} a second)",
            )
        )
    )
    return TrainSyncNetResult(
        output=job.output,
        weights=None,
        checkpoint=find_last(job.output / "checkpoints"),
        reason="planned",
        samples=0,
        steps=0,
        clips=len(training),
        dropped=0,
        took_s=0.0,
        plan={"recipe": recipe.model_dump(mode="json"), **_numbers(needed)},
    )


def _numbers(needed: Estimate) -> dict[str, float]:
    return {**asdict(needed), "memory_bytes": needed.memory_bytes}
