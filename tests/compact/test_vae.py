"""Training of the autoencoder on made-up crops: what it sees and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_clips import ClipDraw, find_clips
from schemas import VAERecipe, VAEStage
from vae import TrainVAEJob, patches, run

from latentsync.events import ignore
from latentsync.models.vae import build_vae
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import VAEConfig
from latentsync.weights.checkpoints import load_checkpoint

SETTINGS = (
    "network.block_out_channels=[8, 8]",
    "network.latent_channels=2",
    "network.norm_num_groups=4",
    "stages=[{patch_px=16, batch_patches=2, patches=4}, {patch_px=32, batch_patches=2, patches=2}]",
)


@pytest.mark.parametrize("patch_px", [16, 32])
def test_patches_of_each_size(patch_px: int, make_clips: Callable[..., Path]) -> None:
    recipe = load_recipe("compact/vae", VAERecipe)
    clips = find_clips(make_clips("news-a", side_px=32))
    stage = VAEStage(patch_px=patch_px, batch_patches=4, patches=4)
    draws = ClipDraw(["news-a"], [6], recipe.groups)
    images = next(patches(clips, draws, stage, np.random.default_rng(0)))
    assert images.shape == (4, 3, patch_px, patch_px)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -0.9 and 0.9 < images.max() <= 1


def test_a_short_run_writes_latents_of_unit_spread(make_clips: Callable[..., Path], tmp_path: Path) -> None:
    data = make_clips("news-a", "grid_s1-b", side_px=32)
    recipe = load_recipe("compact/vae", VAERecipe, overrides=SETTINGS)
    first, second = (run(TrainVAEJob(data, tmp_path / name), recipe, ignore) for name in ("1", "2"))
    vae, again = (
        load_checkpoint(path, kind="vae", config_type=VAEConfig, build=build_vae) for path in (first, second)
    )
    assert vae.config == again.config
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in vae.state_dict().items())
    crops = find_clips(data)[0].read("crops_u8")
    images = torch.from_numpy(np.array(crops)).permute(0, 3, 1, 2) / 127.5 - 1  # n c h w
    assert vae.encode(images).std().item() == pytest.approx(1.0, rel=0.3)
