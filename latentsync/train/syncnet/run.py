"""Trains the SyncNet: do these frames and this speech belong together?"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

import torch

from latentsync.events import Plan, Report, ignore
from latentsync.models.vae import FaceVAE
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.runtime import choose_device
from latentsync.train.checkpoint import AVERAGE
from latentsync.train.clips import Features, find_clips, fingerprint, refuse_nothing_left
from latentsync.train.estimate import Estimate, estimate, say_bytes, say_duration
from latentsync.train.job import (
    TrainingJob,
    TrainingResult,
    count_clips,
    need_best,
    planned_result,
    result_of,
)
from latentsync.train.loop import Score, TrainingRun, train
from latentsync.train.processes import make_accelerator
from latentsync.train.setup import (
    Places,
    announce,
    count_readers,
    keep_usable,
    write_beginning,
)
from latentsync.train.syncnet.kinds import Place, choose_kind
from latentsync.train.syncnet.objective import Pairs, SyncNetInTraining
from latentsync.train.syncnet.validate import make_validate
from latentsync.train.syncnet.watch import SyncNetWatch

WEIGHTS_NAME = "syncnet.safetensors"
REMEMBERED_PAIRS = 2000  # for the picture of predicted probabilities


def run(job: TrainingJob, recipe: SyncNetRecipe, report: Report) -> TrainingResult:
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
    kind = choose_kind(recipe, place, _load_vae(recipe, accelerator.device), pairs)
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
    is_main, took_s = accelerator.is_main_process, time.monotonic() - started
    weights = _export_best(job, is_main=is_main)
    return result_of(job, clips, ending, weights=weights, took_s=took_s, is_main=is_main)


def _load_vae(recipe: SyncNetRecipe, device: torch.device) -> FaceVAE | None:
    if recipe.syncnet == "framewise" or recipe.network.space == "pixel":
        return None
    from latentsync.weights.hub import need
    from latentsync.weights.released import vae_from_released

    return vae_from_released(need(recipe.weights.vae), device=device).requires_grad_(False)


def _export_best(job: TrainingJob, *, is_main: bool) -> Path:
    """Put the best averaged network where a user looks for it."""
    best, weights = need_best(job), job.output / WEIGHTS_NAME
    if is_main:
        part = weights.with_name(f"{weights.name}.part")
        shutil.copyfile(best / AVERAGE, part)
        os.replace(part, weights)
    return weights


def _plan(job: TrainingJob, recipe: SyncNetRecipe, device: torch.device, report: Report) -> TrainingResult:
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
    clips, counted = count_clips(job, held_out=recipe.held_out)
    report(
        Plan(
            (
                counted,
                f"parameters: {needed.parameters / 1e6:.2f} million",
                f"memory: about {say_bytes(needed.memory_bytes)} on each {device.type} device:"
                f" {say_bytes(needed.state_bytes)} for weights, gradients, optimizer and average,"
                f" {say_bytes(needed.activation_bytes)} for {recipe.run.micro_batch_samples} samples at once",
                f"time: about {say_duration(needed.total_s)} for {recipe.run.samples} samples"
                f" ({needed.samples_per_s:.3g} a second)",
            )
        )
    )
    plan = {"recipe": recipe.model_dump(mode="json"), **_numbers(needed)}
    return planned_result(job, plan, clips=clips)


def _numbers(needed: Estimate) -> dict[str, float]:
    return {**asdict(needed), "memory_bytes": needed.memory_bytes}
