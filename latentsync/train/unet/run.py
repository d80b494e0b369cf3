"""Trains the U-Net that moves the mouth: stage 1, stage 2, and every row of the paper's ablations."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import torch
from accelerate import Accelerator
from torch import nn

from latentsync.errors import MediaError, WeightsError
from latentsync.events import Note, Plan, Report, ignore
from latentsync.manifest import ManifestClip
from latentsync.metrics.sync import SyncJudge, choose_judge
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.recipe.networks import UNetConfig, Wav2LipConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import DTYPES, choose_device
from latentsync.train.checkpoint import AVERAGE, find_last
from latentsync.train.clips import (
    Features,
    Windows,
    find_clips,
    fingerprint,
    refuse_nothing_left,
)
from latentsync.train.job import (
    TrainingJob,
    TrainingResult,
    count_clips,
    need_best,
    planned_result,
    result_of,
)
from latentsync.train.log import Row
from latentsync.train.loop import Score, TrainingRun, train
from latentsync.train.pictures import Region, decode_clip, is_cached
from latentsync.train.plots import draw_panels
from latentsync.train.processes import explaining, make_accelerator
from latentsync.train.setup import (
    Places,
    UsableClips,
    announce,
    count_readers,
    keep_usable,
    write_beginning,
)
from latentsync.train.syncnet.data import ClipWindows
from latentsync.train.unet.data import Hearing, LipSamples, LipSource, make_source
from latentsync.train.unet.frozen import (
    SCRATCH,
    FrozenNetworks,
    find_weights,
    load_frozen,
    load_whisper_encoder,
    wanted_weights,
)
from latentsync.train.unet.generators import build_generator
from latentsync.train.unet.objective import (
    Step,
    build_training_scheduler,
    make_unet_step,
    named_weights,
)
from latentsync.train.unet.plan import plan_needs, planned_config
from latentsync.train.unet.validate import Draw, Examination, make_unet_draw, make_validate, make_wav2lip_draw
from latentsync.train.unet.wav2lip import make_wav2lip_step
from latentsync.weights.checkpoints import config_of, read_note, save_checkpoint
from latentsync.weights.read import read_tensors

WEIGHTS_NAMES = {"unet": "unet.safetensors", "wav2lip": "wav2lip.safetensors"}


def run(job: TrainingJob, recipe: UNetTrainingRecipe, report: Report) -> TrainingResult:
    """Train as `recipe` says, from the last checkpoint in the output if there is one.

    All weights are found and loaded before any data is read.

    Raises:
        RecipeError: sizes do not fit, a checkpoint is of another recipe, or a loss is no number any more.
        MediaError: there is no data, or none that can be used.
        WeightsError: weights are missing, damaged or of another network.
        MemoryShortage: the batch does not fit.
    """
    started = time.monotonic()
    device = choose_device(job.device)
    if job.dry_run:
        return _plan(job, recipe, device, report)
    files = _find_files(job, recipe)
    accelerator = make_accelerator(recipe.run, device)
    report = report if accelerator.is_main_process else ignore
    dtype = DTYPES["fp32" if accelerator.device.type == "cpu" else recipe.run.precision]
    with explaining(recipe.run, lambda: "nothing was trained yet"):
        frozen = load_frozen(recipe, files, device=accelerator.device, dtype=dtype)
        model, config = build_generator(recipe, frozen.vae, files.get("start"), report)
    judge = _find_judge(accelerator.device, report)
    has_states = isinstance(frozen.syncnet, FramewiseSyncNet)
    clips, source = prepare_clips(job, recipe, files, accelerator, report, has_states=has_states)
    said = [_training_line(model, recipe)]
    announce(recipe.run, clips, accelerator, Places(job.data, job.output), report, lines=said)
    if accelerator.is_main_process:
        write_beginning(job.output, recipe, clips.dropped)
    step, draw = _make_step(recipe, frozen)
    examination = Examination(clips=clips.validation, source=source, step=step, draw=draw, judge=judge)
    ending = train(
        TrainingRun(
            recipe=recipe,
            run=recipe.run,
            optimizer=recipe.optimizer,
            model=model,
            network="network" if recipe.generator == "unet" else "",
            kind=recipe.generator,
            config=config,
            step=step,
            weights=named_weights(recipe.loss),
            samples=LipSamples(clips.training, source, recipe),
            data=fingerprint(clips.training),
            output=job.output,
            validate=make_validate(recipe, examination) if clips.validation else None,
            validate_every_samples=recipe.validation.every_samples,
            score=_score_of(recipe),
            on_log=partial(_draw, job.output / "pictures" / "learning.png"),
            workers=count_readers(job.workers),
            stop_after_s=job.stop_after_s,
        ),
        accelerator,
        report,
    )
    is_main, took_s = accelerator.is_main_process, time.monotonic() - started
    weights = _export_best(job, recipe, is_main=is_main)
    return result_of(job, clips, ending, weights=weights, took_s=took_s, is_main=is_main)


def prepare_clips(
    job: TrainingJob,
    recipe: UNetTrainingRecipe,
    files: Mapping[str, Path],
    accelerator: Accelerator,
    report: Report,
    *,
    has_states: bool,
) -> tuple[UsableClips, LipSource]:
    """Find the clips, drop those that are too short, and hear the others once.

    Args:
        has_states: whether windows come with their Whisper states.

    Raises:
        MediaError: nothing is left to train on.
    """
    found = find_clips(job.data, held_out=recipe.held_out)
    frames, region = recipe.windows.frames, Region(recipe.windows.resolution, is_lower_half=False)
    features = Features.beside(job.data, job.output)
    is_decoded = is_cached(job.decoded_cache, [*found[0], *found[1]], region)
    windows = ClipWindows(Windows(frames, -(-frames * 16 // 5)), region, features, is_decoded)
    ear = load_whisper_encoder(files, device=accelerator.device)
    hearing = None if ear is None else Hearing(features, recipe.weights.whisper)
    source, lock = make_source(windows, hearing, recipe.windows, has_states=has_states), Lock()

    def check(clip: ManifestClip) -> None:
        source.check(clip)
        if hearing is not None and ear is not None:
            hearing.prepare(clip, ear, lock)
        if windows.is_decoded:
            decode_clip(clip, region, features)

    workers = count_readers(job.workers)
    usable = keep_usable(found, check, accelerator, workers=workers, report=report)
    refuse_nothing_left(job.data, len(usable.training), usable.dropped, shorter="windows.frames")
    return usable, source


def _find_files(job: TrainingJob, recipe: UNetTrainingRecipe) -> dict[str, Path]:
    """The weights that this run loads; where the data is missing, everything to be run first is said."""
    if find_last(job.checkpoints) is not None:  # what a run began with is in its checkpoint
        weights = recipe.weights.model_copy(update={"start": SCRATCH})
        recipe = recipe.model_copy(update={"weights": weights})
    if job.data.exists():
        return find_weights(recipe)
    first = ["'latentsync preprocess RAW data'"]
    try:
        find_weights(recipe)
    except WeightsError as error:
        first.append((error.hint or "").removeprefix("run "))
    raise MediaError(f"'{job.data}': there is no data here", hint=f"run first: {'; then '.join(first)}")


def _make_step(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> tuple[Step, Draw]:
    if frozen.vae is None:
        return make_wav2lip_step(recipe, frozen), make_wav2lip_draw(recipe)
    return make_unet_step(recipe, frozen), make_unet_draw(recipe, frozen.vae)


def _find_judge(device: torch.device, report: Report) -> SyncJudge | None:
    try:
        return choose_judge("auto", device=device)
    except WeightsError as error:
        report(Note(f"validation leaves Sync_conf out: {error}", "warning"))
        return None


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the course of the run after each validation."""
    if "validation" in rows[-1]:
        draw_panels(rows, path)


def _score_of(recipe: UNetTrainingRecipe) -> Score | None:
    by = recipe.validation.best_by
    return None if by == "last" else Score(by, "lower" if by == "loss" else "higher")


def _training_line(model: nn.Module, recipe: UNetTrainingRecipe) -> str:
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parts = ", ".join(f"{name} {weight:g}" for name, weight in named_weights(recipe.loss).items())
    return f"training: {trained / 1e6:.2f} of {every / 1e6:.2f} million parameters; losses: {parts}"


def _export_best(job: TrainingJob, recipe: UNetTrainingRecipe, *, is_main: bool) -> Path:
    """Put the best averaged network where a user looks for it, with what `sync` must know to use it."""
    best, weights = need_best(job), job.output / WEIGHTS_NAMES[recipe.generator]
    if not is_main:
        return weights
    note = read_note(best / AVERAGE)
    facts = {
        **note.facts,
        "origin": "trained",
        "resolution": recipe.windows.resolution,
        "prediction_type": build_training_scheduler(recipe.noise).config.prediction_type,
        "vae": recipe.weights.vae,
        "whisper": recipe.weights.whisper,
    }
    config = config_of(note, UNetConfig if recipe.generator == "unet" else Wav2LipConfig)
    save_checkpoint(weights, read_tensors(best / AVERAGE), kind=note.kind, config=config, facts=facts)
    return weights


def _plan(
    job: TrainingJob, recipe: UNetTrainingRecipe, device: torch.device, report: Report
) -> TrainingResult:
    """What a run would need; the data is only counted, and no weight is loaded."""
    config = planned_config(recipe)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    needs = plan_needs(recipe, config, device=device, processes=processes)
    clips, counted = count_clips(job, held_out=recipe.held_out)
    report(
        Plan(
            (
                counted,
                f"weights: {', '.join(f'{use} {name}' for use, name in wanted_weights(recipe).items())}",
                *needs.lines(recipe, device),
            )
        )
    )
    plan = {"recipe": recipe.model_dump(mode="json"), **needs.as_dict()}
    return planned_result(job, plan, clips=clips)
