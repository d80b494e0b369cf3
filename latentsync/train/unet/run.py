"""Trains the U-Net that generates the mouth: stage 1, stage 2, and every row of the paper's ablations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch

from latentsync.events import Report, ignore
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import DTYPES, choose_device
from latentsync.train.loop import Score, TrainingRun, train
from latentsync.train.processes import explaining, make_accelerator
from latentsync.train.setup import TrainingJob, TrainingResult, planned, result_of, started
from latentsync.train.trackers import check_trackers
from latentsync.train.unet.data import LipSamples, blank_batch, prepare_clips
from latentsync.train.unet.frozen import build_frozen, find_weights, load_frozen, record_weights
from latentsync.train.unet.objective import choose_objective, wanted_weights
from latentsync.train.unet.start import (
    UNetInTraining,
    Wav2LipInTraining,
    build_generator,
    describe_training,
    export_generator,
)
from latentsync.train.unet.validate import UNetValidation, draw_curves, find_judge


def run(job: TrainingJob, recipe: UNetTrainingRecipe, report: Report) -> TrainingResult:
    """Train as `recipe` says, from the last checkpoint in the output if there is one.

    All weights are found and loaded before any data is read.

    Raises:
        RecipeError: sizes do not fit, a checkpoint is of another recipe, or a loss became NaN or infinite.
        MediaError: there is no data, or none that can be used.
        WeightsError: weights are missing, damaged or of another network.
        UsageError: another training is writing to the output.
        MemoryShortage: the batch does not fit.
    """
    started_s, device = time.monotonic(), choose_device(job.device)
    wanted = wanted_weights(recipe)
    check_trackers(job.trackers)
    if job.dry_run:
        return _plan(job, recipe, wanted, report)
    files = find_weights(wanted, data=job.data, checkpoints=job.checkpoints)
    accelerator = make_accelerator(recipe.run, device)
    is_main = accelerator.is_main_process
    report = report if is_main else ignore
    dtype = DTYPES["fp32" if accelerator.device.type == "cpu" else recipe.run.precision]
    networks = record_weights(recipe, wanted, files, report)
    with explaining(recipe.run, lambda: "nothing was trained yet"):
        frozen = load_frozen(recipe, files, device=accelerator.device, dtype=dtype)
        model, config = build_generator(recipe, frozen.vae, files.get("start"), report)
    judge = find_judge(accelerator.device, report)
    clips, source = prepare_clips(job, recipe, files, frozen.syncnet, accelerator, report)
    objective = choose_objective(recipe, frozen)
    validation = UNetValidation(recipe, clips.validation, source, objective, judge)
    lines = [describe_training(model, objective.weights)]
    with started(job, recipe, clips, accelerator, report, lines=lines):
        ending = train(
            TrainingRun(
                recipe=recipe,
                model=model,
                network="network" if isinstance(model, UNetInTraining | Wav2LipInTraining) else "",
                kind=recipe.generator,
                config=config,
                objective=objective,
                samples=LipSamples(clips.training, source, recipe),
                data=clips.fingerprint,
                output=job.output,
                validate=validation if clips.validation else None,
                validate_every_samples=recipe.validation.every_samples,
                score=_score_of(recipe),
                on_log=partial(draw_curves, job.output / "pictures" / "learning.png"),
                workers=job.readers,
                stop_after_s=job.stop_after_s,
                trackers=job.trackers,
            ),
            accelerator,
            report,
        )
        weights = export_generator(job, recipe, networks=networks, is_main=is_main)
    return result_of(job, clips, ending, weights, started_s=started_s, is_main=is_main)


def _score_of(recipe: UNetTrainingRecipe) -> Score | None:
    by = recipe.validation.best_by
    return None if by == "last" else Score(by, "lower" if by == "loss" else "higher")


def _plan(
    job: TrainingJob, recipe: UNetTrainingRecipe, wanted: Mapping[str, str], report: Report
) -> TrainingResult:
    """What a run would need; the data is only counted, and no weight is loaded."""
    meta = torch.device("meta")
    frozen = build_frozen(recipe, wanted)
    with meta:
        model, _ = build_generator(recipe, frozen.vae, None, ignore)
    objective, batch = choose_objective(recipe, frozen), blank_batch(recipe, frozen.syncnet, device=meta)
    lines = [f"weights: {', '.join(f'{use} {name}' for use, name in wanted.items())}"]
    parts = list(frozen.present())
    return planned(job, recipe, model, objective, batch, report, frozen=parts, lines=lines)
