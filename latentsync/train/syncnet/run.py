"""Trains the SyncNet: do these frames and this speech belong together?"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from latentsync.errors import WeightsError
from latentsync.events import Report, ignore
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.vae import build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.runtime import choose_device
from latentsync.train.checkpoint import export_best
from latentsync.train.clips import FeatureFiles, choose_decoder, find_clips
from latentsync.train.loop import Score, TrainingRun, train
from latentsync.train.processes import make_accelerator
from latentsync.train.setup import TrainingJob, TrainingResult, keep_usable, planned, result_of, started
from latentsync.train.syncnet.objective import ClipFiles, Pairs, choose_objective
from latentsync.train.syncnet.validate import SyncNetValidation
from latentsync.train.syncnet.watch import SyncNetWatch
from latentsync.train.trackers import check_trackers
from latentsync.weights.catalog import COMPACT
from latentsync.weights.models import load_autoencoder
from latentsync.weights.named import find_named, record_networks

WEIGHTS_NAME = "syncnet.safetensors"
REMEMBERED_PAIRS = 2000  # for the picture of predicted probabilities


def run(job: TrainingJob, recipe: SyncNetRecipe, report: Report) -> TrainingResult:
    """Train as `recipe` says, from the last checkpoint in the output if there is one.

    Raises:
        RecipeError: sizes do not fit, a checkpoint is of another recipe, or the loss became NaN or infinite.
        MediaError: there is no data, or none that can be used.
        WeightsError: a checkpoint is damaged, or an autoencoder is missing.
        UsageError: another training is writing to the output.
        MemoryShortage: the batch does not fit.
    """
    started_s, device = time.monotonic(), choose_device(job.device)
    check_trackers(job.trackers)
    if job.dry_run:
        return _plan(job, recipe, report)
    accelerator = make_accelerator(recipe.run, device)
    is_main = accelerator.is_main_process
    report = report if is_main else ignore
    found = find_clips(job.data, held_out=recipe.held_out)
    decoder = choose_decoder(job.decoder, device.type)
    features = FeatureFiles.beside(job.data, job.output)
    files = ClipFiles([*found[0], *found[1]], features, job.decoded_cache, decoder)
    names = _network_names(recipe)
    networks = record_networks(names, {use: _find(use, name) for use, name in names.items()})
    vae, pairs = _load_vae(recipe, device=accelerator.device), Pairs(maxlen=REMEMBERED_PAIRS)
    objective = choose_objective(recipe, files, vae=vae, pairs=pairs)
    shorter = "network.frames or negatives.min_distance_frames"
    clips = keep_usable(job, found, objective.check, accelerator, report, shorter=shorter)
    torch.manual_seed(recipe.seed)  # model initialisation
    model, best_by = objective.build(), recipe.validation.best_by
    with started(job, recipe, clips, accelerator, report):
        ending = train(
            TrainingRun(
                recipe=recipe,
                model=model,
                network="network",
                kind=objective.kind,
                config=objective.config,
                objective=objective,
                samples=objective.samples(clips.training),
                data=clips.fingerprint,
                output=job.output,
                validate=SyncNetValidation(recipe, clips.validation, objective) if clips.validation else None,
                validate_every_samples=recipe.validation.every_samples,
                score=Score(best_by, "lower" if best_by == "loss" else "higher"),
                on_log=SyncNetWatch(recipe, clips.training, pairs, job.output, report),
                workers=job.readers,
                stop_after_s=job.stop_after_s,
                trackers=job.trackers,
            ),
            accelerator,
            report,
        )
        facts = {"origin": "trained", "networks": networks}
        weights = export_best(job.checkpoints, job.output / WEIGHTS_NAME, facts=facts, is_main=is_main)
    return result_of(job, clips, ending, weights, started_s=started_s, is_main=is_main)


def _plan(job: TrainingJob, recipe: SyncNetRecipe, report: Report) -> TrainingResult:
    """What a run would need; the data is only counted."""
    meta = torch.device("meta")
    vae = _load_vae(recipe, device=meta)
    objective = choose_objective(recipe, ClipFiles([], FeatureFiles(job.output), "no"), vae=vae)
    with meta:
        model = objective.build()
    batch, frozen = objective.blank_batch(device=meta), [] if vae is None else [vae]
    return planned(job, recipe, model, objective, batch, report, frozen=frozen)


def _network_names(recipe: SyncNetRecipe) -> dict[str, str]:
    """The networks whose output the SyncNet takes, by use."""
    if recipe.syncnet == "framewise":
        return {"whisper": COMPACT}
    return {"vae": recipe.weights.vae} if recipe.network.space == "latent" else {}


def _find(use: str, name: str) -> Path:
    return find_named(name, use=use, key=f"weights.{use}")


def _load_vae(recipe: SyncNetRecipe, *, device: torch.device) -> AnyAutoencoder | None:
    """The autoencoder of a SyncNet that takes latents; on the meta device its file may be missing."""
    name = _network_names(recipe).get("vae")
    if name is None:
        return None
    vae: AnyAutoencoder
    try:
        vae = load_autoencoder(_find("vae", name), device=device, dtype=torch.float32)
    except WeightsError:
        if device.type != "meta":
            raise
        with device:
            vae = build_vae(VAEConfig()).eval()
    return vae.requires_grad_(False)
