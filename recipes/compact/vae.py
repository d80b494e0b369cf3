"""Trains the bundled model's autoencoder on aligned faces: first on patches, then on whole crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from latentsync.events import Report
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.recipe.schema import Amount
from latentsync.train.loop import TrainingRun
from latentsync.train.losses import mouth_region, reconstruction_loss
from latentsync.weights.checkpoints import load_checkpoint, save_checkpoint
from recipes.compact.labelled_clips import (
    ClipDraw,
    ClipGroup,
    LabelledClip,
    find_clips,
    matches_any,
)
from recipes.compact.training import (
    Batch,
    Samples,
    TrainingRecipe,
    fingerprint,
    halves,
    train_to_the_end,
)

SCALE_SAMPLES = 32  # patches whose latents tell the scaling factor
NEAR_MOUTH_SHARE = 2 / 3  # of the patches: the mouth is what must be sharp


class VAERecipe(TrainingRecipe):
    """`recipes/compact/vae.toml`.

    patch_px      side of the squares that are cut from a crop; its own side for whole crops
    edge_weight   of the edges in `reconstruction_loss`
    mouth_weight  of the mouth, which counts once more; 0 where patches do not show it in a known position
    kl_weight     of the divergence from a normal distribution, which keeps latents finite
    """

    kind: ClassVar[str] = "compact/vae"

    groups: tuple[ClipGroup, ...] = Field(strict=False)
    patch_px: Annotated[int, Field(ge=16, multiple_of=8)]
    edge_weight: Amount
    mouth_weight: Amount
    kl_weight: Amount
    network: VAEConfig


class VAEObjective:
    """Reconstruction of the patches through a sample of the posterior."""

    def __init__(self, vae: FaceVAE, recipe: VAERecipe) -> None:
        self.vae, self.recipe = vae, recipe

    def losses(self, _: nn.Module, batch: Batch) -> dict[str, Tensor]:
        edge, real = self.recipe.edge_weight, batch["picture"].contiguous(memory_format=torch.channels_last)
        posterior = self.vae.posterior(real)
        made = self.vae.decode(posterior.sample())  # of torch's own stream, which the loop seeds each step
        losses = {
            "picture": reconstruction_loss(made, real, edge_weight=edge),
            "kl": posterior.kl().mean(),
        }
        if self.recipe.mouth_weight:
            rows, columns = mouth_region(real.shape[2])
            mouths = made[:, :, rows, columns], real[:, :, rows, columns]
            losses["mouth"] = reconstruction_loss(*mouths, edge_weight=edge)
        return losses

    @property
    def weights(self) -> dict[str, float]:
        weights = {"picture": 1.0, "kl": self.recipe.kl_weight}
        return weights | ({"mouth": self.recipe.mouth_weight} if self.recipe.mouth_weight else {})


class Patches:
    """Random patches of clips, "picture" (c h w) in -1..1, mirrored and recoloured at random."""

    def __init__(self, clips: list[LabelledClip], recipe: VAERecipe) -> None:
        self.clips, self.side_px = clips, recipe.patch_px
        names, frames = [clip.name for clip in clips], [len(clip.read("time_s")) for clip in clips]
        self.clip_draw = ClipDraw(names, frames, recipe.groups)

    def draw(self, random: np.random.Generator) -> Batch:
        crops_u8, side = self.clips[self.clip_draw.draw(random)].read("crops_u8"), self.side_px
        free = crops_u8.shape[1] - side
        top, left = random.integers(free + 1, size=2)
        if free and random.random() < NEAR_MOUTH_SHARE:
            top = random.integers(free * 3 // 4, free + 1)  # the lowest quarter
        patch = crops_u8[random.integers(len(crops_u8)), top : top + side, left : left + side] / 127.5 - 1
        if random.random() < 0.5:
            patch = patch[:, ::-1]
        if random.random() < 0.5:
            patch = patch * random.uniform(0.7, 1.3, 3) + random.uniform(-0.2, 0.2)
        picture = torch.from_numpy(patch.astype(np.float32)).permute(2, 0, 1)  # h w c to c h w
        return {"picture": picture.clamp(-1, 1)}


def run(data: Path, output: Path, recipe: VAERecipe, report: Report, *, start: Path | None = None) -> Path:
    """Train on labelled clips and return the weights, at half precision.

    Args:
        start: weights of an earlier run, instead of random ones.

    Raises:
        MediaError: there are no labelled clips.
        RecipeError: the checkpoint is of another recipe.
    """
    torch.manual_seed(recipe.seed)  # model initialisation
    vae = build_vae(recipe.network.replaced(scaling_factor=1.0))
    if start is not None:
        vae = load_checkpoint(start, kind="vae", config_type=VAEConfig, build=build_vae)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clips = [clip for clip in find_clips(data) if not matches_any(clip.name, recipe.held_out)]
    samples, objective = Samples(Patches(clips, recipe).draw, recipe), VAEObjective(vae, recipe)
    weights = train_to_the_end(
        TrainingRun(
            recipe=recipe,
            model=vae.network,
            network="",
            kind="vae",
            config=vae.config,
            objective=objective,
            samples=samples,
            data=fingerprint(clip.name for clip in clips),
            output=output,
        ),
        report,
    )
    trained = load_checkpoint(weights, kind="vae", config_type=VAEConfig, build=build_vae)
    with torch.inference_mode():  # scaled latents shall have a standard deviation of 1
        pictures = torch.stack([samples[number]["picture"] for number in range(SCALE_SAMPLES)])
        spread = trained.posterior(pictures).mean.std().item()
    config = vae.config.replaced(scaling_factor=round(1 / spread, 4))
    save_checkpoint(output / "vae.safetensors", halves(weights), kind="vae", config=config)
    return output / "vae.safetensors"
