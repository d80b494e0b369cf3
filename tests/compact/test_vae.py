"""Training of the autoencoder on made crops: what it sees, that it learns and resumes, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.events import ignore
from latentsync.models.vae import build_vae
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import VAEConfig
from latentsync.weights.checkpoints import load_checkpoint
from recipes.compact.labelled_clips import find_clips
from recipes.compact.vae import Patches, VAERecipe, run
from tests.compact.trainer_runs import check_resumed_run, losses_of, tiny_run

SETTINGS = (
    "network.block_out_channels=[8, 8]",
    "network.latent_channels=2",
    "network.norm_num_groups=4",
    "patch_px=16",
    *tiny_run(samples=48, batch_samples=4, learning_rate=5e-3),
)


@pytest.mark.parametrize("patch_px", [16, 32])
def test_patches_of_each_size(patch_px: int, make_clips: Callable[..., Path]) -> None:
    recipe = load_recipe("compact/vae", VAERecipe, overrides=[f"patch_px={patch_px}"])
    patches = Patches(find_clips(make_clips("news-a", side_px=32)), recipe)
    random = np.random.default_rng(0)
    pictures = torch.stack([patches.draw(random)["picture"] for _ in range(4)])
    assert pictures.shape == (4, 3, patch_px, patch_px)
    assert pictures.dtype == torch.float32
    assert -1 <= pictures.min() < -0.9 and 0.9 < pictures.max() <= 1


def test_it_learns_resumes_and_writes_latents_of_unit_spread(
    make_clips: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_clips("news-a", "grid_s1-b", side_px=32)
    recipe = load_recipe("compact/vae", VAERecipe, overrides=SETTINGS)
    first = check_resumed_run(
        lambda output, report: run(data, output, recipe, report), tmp_path / "whole", tmp_path / "stopped"
    )
    losses = losses_of(tmp_path / "whole", "picture")
    assert sum(losses[-3:]) < sum(losses[:3])
    crops = find_clips(data)[0].read("crops_u8")
    images = torch.from_numpy(np.array(crops)).permute(0, 3, 1, 2) / 127.5 - 1  # n c h w
    vae = load_checkpoint(first, kind="vae", config_type=VAEConfig, build=build_vae)
    assert vae.encode(images).std().item() == pytest.approx(1.0, rel=0.3)


def test_whole_crops_start_from_the_weights_of_patches(
    make_clips: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_clips("news-a", side_px=32)
    recipe = load_recipe("compact/vae", VAERecipe, overrides=SETTINGS)
    first = run(data, tmp_path / "patches", recipe, ignore)
    settings = [*SETTINGS, "patch_px=32", "run.samples=4", "run.save_every_samples=4"]
    whole = load_recipe("compact/vae-whole", VAERecipe, overrides=[*settings, "optimizer.learning_rate=1e-9"])
    second = run(data, tmp_path / "whole", whole, ignore, start=first)
    before, after = (
        load_checkpoint(path, kind="vae", config_type=VAEConfig, build=build_vae).state_dict()
        for path in (first, second)
    )
    assert all(torch.allclose(tensor, after[key], atol=1e-3) for key, tensor in before.items())
    assert losses_of(tmp_path / "whole", "mouth")
