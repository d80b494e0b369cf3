"""The networks and trainings that bundled recipes describe, for tests to change, and a tiny U-Net."""

from __future__ import annotations

from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

PAPER_RECIPE = load_recipe("syncnet", SyncNetRecipe)
PAPER_SYNCNET = PAPER_RECIPE.network
BUNDLED_SYNCNET = load_recipe("compact/syncnet", SyncNetRecipe).framewise
STAGE2_RECIPE = load_recipe("stage2", UNetTrainingRecipe)
RELEASED_UNET = STAGE2_RECIPE.network
TINY_UNET = RELEASED_UNET.replaced(
    block_out_channels=(8, 8),
    attention_head_dim=2,
    layers_per_block=1,
    motion=False,
    latent_channels=2,
    norm_num_groups=4,
    attention_levels=(False, True),
    audio_dim=12,
)
