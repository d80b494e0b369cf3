"""The numbers in the recipes of `train-unet` are those of their sources."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from latentsync.errors import RecipeError
from latentsync.recipe.loading import bundled_names, load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

COMMON = {  # configs/unet/*.yaml, alike in all five
    "seed": 1247,
    "windows.frames": 16,
    "windows.audio_context_frames": 2,  # audio_feat_length
    "windows.audio_dropout": 0.0,
    "noise.kind": "mixed",
    "noise.alpha": 1.0,
    "network.block_out_channels": (320, 640, 1280, 1280),
    "network.attention_head_dim": 8,
    "network.layers_per_block": 2,
    "network.norm_num_groups": 32,
    "network.audio_dim": 384,
    "network.norm_over": "window",
    "network.motion_max_frames": 24,
    "optimizer.learning_rate": 1e-5,
    "optimizer.weight_decay": 0.01,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.max_gradient_norm": 1.0,
    "optimizer.schedule": "constant",
    "optimizer.warmup_samples": 0,
    "run.precision": "fp16",
    "run.gradient_checkpointing": True,
    "run.average_decay": 0.0,
    "validation.steps": 20,
    "validation.guidance": 1.5,
    "weights.vae": "sd-vae-ft-mse",
    "weights.whisper": "whisper-tiny",
    "weights.syncnet": "stable-syncnet",
    "weights.temporal": "videomae-v2",
    "loss.noise": 1.0,  # recon_loss_weight
    "loss.trepa_normalise": "mean",
}
STAGE1 = {
    "loss.sync": 0.0,  # use_syncnet: false
    "loss.perceptual": 0.0,  # pixel_space_supervise: false
    "loss.trepa": 0.0,
    "network.motion": False,
    "trainable": (),
    "weights.start": "sd-1.5-unet",  # the paper, section 3.1
}
STAGE2 = {
    "loss.sync": 0.05,
    "loss.sync_space": "pixel",
    "loss.perceptual": 0.1,
    "loss.trepa": 10.0,
    "network.motion": True,
    "network.motion_modules": "all",
    "trainable": ("motion_modules.", "attentions."),
}
BATCH = {"stage1": 24, "stage1-512": 8, "stage2": 4, "stage2-efficient": 4, "stage2-512": 4}  # of a card
CARDS, SAVE_STEPS = 8, 10_000
OFFICIAL: dict[str, dict[str, Any]] = {
    "stage1": COMMON | STAGE1 | {"windows.resolution": 256},
    "stage1-512": COMMON | STAGE1 | {"windows.resolution": 512},
    "stage2": COMMON | STAGE2 | {"windows.resolution": 256, "weights.start": "latentsync-1.5"},
    "stage2-512": COMMON | STAGE2 | {"windows.resolution": 512, "weights.start": "latentsync-1.6"},
    "stage2-efficient": COMMON
    | STAGE2
    | {
        "windows.resolution": 256,
        "loss.trepa": 0.0,
        "network.motion_modules": "decoder",
        "trainable": ("motion_modules.", "attn2."),
    },
}
# What a row of the paper's tables 2 to 4 changes of the paper's own model.
PAPER = {
    "network.motion": False,
    "trainable": (),
    "weights.syncnet": "latentsync-syncnet-1.0",
    "loss.sync": 0.05,
    "loss.sync_space": "pixel",
    "loss.perceptual": 0.1,
    "loss.trepa": 10.0,
}
WAV2LIP = {  # Prajwal et al. 2020
    "generator": "wav2lip",
    "wav2lip.resolution": 96,
    "loss.noise": 0.0,
    "loss.reconstruction": 0.97,
    "loss.sync": 0.03,
    "loss.perceptual": 0.0,
    "optimizer.learning_rate": 1e-4,
    "optimizer.betas": (0.5, 0.999),
}
ROWS: dict[str, dict[str, Any]] = {
    "unet-no-syncnet": PAPER | {"loss.sync": 0.0},
    "unet-latent-syncnet": PAPER
    | {"loss.sync_space": "latent", "weights.syncnet": "runs/syncnet-latent/syncnet.safetensors"},
    "unet-pixel-syncnet": PAPER,
    "unet-plain": PAPER | {"loss.trepa": 0.0},
    "unet-temporal-layer": PAPER | {"loss.trepa": 0.0, "network.motion": True},
    "unet-trepa": PAPER,
    "unet-wav2lip": WAV2LIP | {"loss.trepa": 0.0},
    "unet-wav2lip-trepa": WAV2LIP | {"loss.trepa": 10.0},
    "unet-wav2lip-own": WAV2LIP
    | {
        "loss.trepa": 0.0,
        "windows.frames": 5,
        "weights.syncnet": "runs/syncnet-wav2lip/syncnet.safetensors",
    },
    "unet-wav2lip-adversarial": WAV2LIP
    | {
        "loss.reconstruction": 0.9,
        "loss.adversarial": 0.07,
        "loss.trepa": 0.0,
        "optimizer.weight_decay": 0.0,
        "windows.frames": 5,
        "weights.syncnet": "runs/syncnet-wav2lip/syncnet.safetensors",
    },
}


def value_at(recipe: UNetTrainingRecipe, key: str) -> object:
    found: object = reduce(getattr, key.split("."), recipe)
    return found


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_numbers(name: str) -> None:
    recipe = load_recipe(name, UNetTrainingRecipe)
    assert {key: value_at(recipe, key) for key in OFFICIAL[name]} == OFFICIAL[name]


@pytest.mark.parametrize("name", OFFICIAL)
def test_batches_and_checkpoints_are_as_often_as_officially_on_eight_cards(name: str) -> None:
    run = load_recipe(name, UNetTrainingRecipe).run
    assert run.batch_samples == BATCH[name] * CARDS
    assert run.save_every_samples == SAVE_STEPS * run.batch_samples


@pytest.mark.parametrize(("stage", "numbers"), [("stage1", STAGE1), ("stage2", PAPER)])
def test_the_papers_own_stages(stage: str, numbers: dict[str, Any]) -> None:
    recipe = load_recipe(f"paper/{stage}", UNetTrainingRecipe)
    assert {key: value_at(recipe, key) for key in numbers} == numbers


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_the_papers_tables(row: str) -> None:
    recipe = load_recipe(f"ablations/{row}", UNetTrainingRecipe)
    assert {key: value_at(recipe, key) for key in ROWS[row]} == ROWS[row]


def test_every_ablation_is_a_row_of_a_table() -> None:
    bundled = {name for name in bundled_names() if name.startswith("ablations/unet-")}
    assert bundled == {f"ablations/{row}" for row in ROWS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.synk=1", r"--set loss\.synk: no such key"),
        ("loss.noise=0", r"needs loss\.noise above 0"),
        ("loss.warp=1", r"loss\.warp needs network\.warp_widths"),
        ("network.warp_widths=[8]", r"warp_widths needs view = \"mouth\""),
        ("noise.prediction=clean", r"\"clean\" needs loss\.clean above 0 and loss\.noise = 0"),
        ("loss.reconstruction=1", r"\"noise\" needs .* loss\.clean = 0 and loss\.reconstruction = 0"),
        ("network.adapter_dim=64", r"network: adapter_dim needs motion = false"),
        ("windows.audio_context_frames=99", r"windows\.audio_context_frames"),
        ("generator=wav2lip", r"needs loss\.reconstruction above 0"),
        ("windows.frames=25", r"windows\.frames = 25 is over network\.motion_max_frames = 24"),
        ("network.attention_levels=[true]", "one entry per level"),
        ("loss.trepa_normalise=median", "got 'median'"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("stage2", UNetTrainingRecipe, overrides=[change])


def test_a_wav2lip_needs_as_many_reference_frames() -> None:
    with pytest.raises(RecipeError, match=r'needs windows\.reference = "window"'):
        load_recipe("ablations/unet-wav2lip", UNetTrainingRecipe, overrides=['windows.reference="frame"'])
