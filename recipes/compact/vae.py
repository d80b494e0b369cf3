"""Trains the compact model's autoencoder on aligned faces, first in patches, then whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from labelled_clips import ClipDraw, LabelledClip, find_clips, matches_any
from numpy.typing import NDArray
from schemas import VAERecipe, VAEStage
from torch import Tensor
from torch.nn import functional

from latentsync.events import Measured, Progress, Report
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.runtime import Seeds
from latentsync.train.losses import mouth_region, reconstruction_loss
from latentsync.weights.checkpoints import save_checkpoint

FRAMES_PER_CLIP = 2  # patches that are cut from one clip before the next is drawn


@dataclass(frozen=True, slots=True)
class TrainVAEJob:
    """`data` holds labelled clips, `output` takes the weights."""

    data: Path
    output: Path


def run(job: TrainVAEJob, recipe: VAERecipe, report: Report) -> Path:
    """Train through all stages and return the weights.

    Raises:
        MediaError: there are no labelled clips.
    """
    torch.manual_seed(recipe.seed)  # model initialisation
    vae = build_vae(recipe.network.replaced(scaling_factor=1.0))
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clips = [clip for clip in find_clips(job.data) if not matches_any(clip.name, recipe.held_out)]
    draws = ClipDraw(
        [clip.name for clip in clips], [len(clip.read("time_s")) for clip in clips], recipe.groups
    )
    random = np.random.default_rng(recipe.seed)
    target = job.output / "vae.safetensors"
    for number, stage in enumerate(recipe.stages):
        images = patches(clips, draws, stage, random)
        _train_stage(vae, images, recipe, stage, number, report)
        spread = vae.posterior(next(images)).mean.std().item()
        config = vae.config.replaced(scaling_factor=round(1 / spread, 4))
        state = {key: tensor.half() for key, tensor in vae.state_dict().items()}
        save_checkpoint(target, state, kind="vae", config=config)
    return target


def patches(
    clips: list[LabelledClip], draws: ClipDraw, stage: VAEStage, random: np.random.Generator
) -> Iterator[Tensor]:
    """Endless batches (b c h w) in -1..1; patches of a crop lie around the mouth two times in three."""
    side = stage.patch_px
    while True:
        batch: list[NDArray[np.float64]] = []
        while len(batch) < stage.batch_patches:
            crops = clips[draws.draw(random)].read("crops_u8")
            size = crops.shape[1]
            for frame in random.integers(len(crops), size=FRAMES_PER_CLIP):
                top, left = random.integers(size - side + 1, size=2)
                if side < size and random.random() < 2 / 3:
                    top = random.integers((size - side) * 3 // 4, size - side + 1)
                    left = random.integers(0, size - side + 1)
                patch = crops[frame, top : top + side, left : left + side] / 127.5 - 1
                patch = patch[:, ::-1] if random.random() < 0.5 else patch
                if random.random() < 0.5:
                    patch = patch * random.uniform(0.7, 1.3, 3) + random.uniform(-0.2, 0.2)
                batch.append(patch)
        images = torch.from_numpy(np.stack(batch).astype(np.float32)).permute(0, 3, 1, 2)  # b c h w
        yield images.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def _train_stage(
    vae: FaceVAE, images: Iterator[Tensor], recipe: VAERecipe, stage: VAEStage, number: int, report: Report
) -> None:
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    generator = Seeds(recipe.seed).generator(f"posterior/{number}")
    steps = stage.patches // stage.batch_patches
    for step in range(1, steps + 1):
        rate = recipe.learning_rate * min(1, step / recipe.warmup_steps, 2.5 * (1.001 - step / steps))
        optimizer.param_groups[0]["lr"] = rate
        real = next(images)
        posterior = vae.posterior(real)
        made = vae.decode(posterior.sample(generator))
        loss = reconstruction_loss(made, real, edge_weight=recipe.edge_weight)
        if number > 0:  # the whole crop: the mouth's place is known
            rows, columns = mouth_region(real.shape[2])
            mouths = made[:, :, rows, columns], real[:, :, rows, columns]
            loss = loss + recipe.mouth_weight * reconstruction_loss(*mouths, edge_weight=recipe.edge_weight)
        loss = loss + recipe.kl_weight * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        report(Progress(f"stage {number + 1}", step, steps, "steps"))
        if step % recipe.save_every_steps == 0:
            report(Measured(step, {"loss": loss.item(), "mae": functional.l1_loss(made, real).item()}))
