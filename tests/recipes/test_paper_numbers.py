"""The numbers of the recipes, held against the paper and the official configurations they come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentsync.models.syncnet import build_syncnet
from latentsync.recipe.loading import bundled_names, load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe

# What an ablation is about, and what of it the paper or an official file says; empty: the data differs. All
# but the batch sizes, and ours, have batch 512, as the captions of the figures say.
ABLATIONS: dict[str, dict[str, Any]] = {
    "batch-128": {"run.batch_samples": 128},  # paper: stuck at 0.693
    "batch-256": {"run.batch_samples": 256},  # official syncnet_16_pixel.yaml: batch_size
    "batch-512": {"run.batch_samples": 512},
    "attention": {  # official syncnet_16_pixel_attn.yaml
        "network.visual.attention": (False, False, False, False, True, True, False, False),
        "network.audio.attention": (False, False, False, True, True, False, False),
    },
    "frames-5": {"network.frames": 5},
    "frames-25": {  # official syncnet_25_pixel.yaml; 2048 by the figure's caption
        "network.frames": 25,
        "network.visual.channels": (128, 128, 256, 256, 512, 512, 1024, 2048),
    },
    "pixel": {},
    "latent": {"network.space": "latent", "network.is_lower_half": False},  # official syncnet_16_latent.yaml
    "wav2lip": {  # 2048 by the figure's caption
        "network.kind": "wav2lip",
        "network.frames": 5,
        "network.visual.channels": (32, 64, 128, 256, 512, 1024, 2048),
    },
    "dimension-512": {"network.visual.channels": (64, 128, 256, 256, 512, 1024, 2048, 512)},
    "dimension-1024": {"network.visual.channels": (64, 128, 256, 256, 512, 1024, 2048, 1024)},
    "dimension-4096": {"network.visual.channels": (64, 128, 256, 256, 512, 1024, 2048, 4096)},
    "dimension-6144": {"network.visual.channels": (64, 128, 256, 256, 512, 1024, 2048, 6144)},
    "no-adjustment": {},
    "adjust-before": {},
    "same-clip": {"negatives.policy": "same_clip"},
    "mixed": {"negatives.policy": "mixed"},
}
# Counted by running the official networks.
PARAMETERS = {
    "syncnet": 371_766_496,
    "ablations/syncnet-attention": 401_306_080,
    "ablations/syncnet-latent": 65_544_416,
}


def value_at(recipe: SyncNetRecipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_syncnet_is_the_paper_s_best() -> None:
    recipe = load_recipe("syncnet", SyncNetRecipe)
    paper = {
        "run.batch_samples": 1024,
        "network.frames": 16,
        "network.space": "pixel",
        "network.visual.attention": (),
        "network.audio.attention": (),
    }
    official = {  # configs/syncnet/syncnet_16_pixel.yaml and the official data set
        "seed": 42,
        "network.resolution": 256,
        "network.is_lower_half": True,
        "network.dropout": 0.0,
        "network.visual.channels": (64, 128, 256, 256, 512, 1024, 2048, 2048),
        "network.visual.factors": ((1, 2), 2, 2, 2, 2, 2, 2, 2),
        "network.audio.channels": (32, 64, 128, 256, 512, 1024, 2048),
        "network.audio.factors": ((2, 1), 2, 2, 1, 2, 2, (2, 3)),
        "negatives.policy": "reference",
        "negatives.min_distance_frames": 1,
        "optimizer.learning_rate": 1e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.max_gradient_norm": 1.0,
        "optimizer.schedule": "constant",
        "run.precision": "fp16",
    }
    assert {key: value_at(recipe, key) for key in paper | official} == paper | official


def test_no_ablation_is_left_out() -> None:
    bundled = {name for name in bundled_names() if name.startswith("ablations/syncnet-")}
    assert bundled == {f"ablations/syncnet-{name}" for name in ABLATIONS}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_is_about(name: str) -> None:
    recipe = load_recipe(f"ablations/syncnet-{name}", SyncNetRecipe)
    assert {key: value_at(recipe, key) for key in ABLATIONS[name]} == ABLATIONS[name]
    is_ours = name in ("same-clip", "mixed")
    best = load_recipe("syncnet" if is_ours else "ablations/syncnet-batch-512", SyncNetRecipe)
    about = {key.split(".")[0] for key in ABLATIONS[name]}
    kept = set(SyncNetRecipe.model_fields) - about
    assert all(getattr(recipe, table) == getattr(best, table) for table in kept)


@pytest.mark.parametrize(
    "name", [name for name in bundled_names() if name.split("/")[-1].startswith("syncnet")]
)
def test_the_network_of_a_recipe_fits_what_it_sees(name: str) -> None:
    config = load_recipe(name, SyncNetRecipe).network
    side = config.resolution if config.space == "pixel" else config.resolution // 8
    rows = side // 2 if config.is_lower_half else side
    with torch.device("meta"):
        network = build_syncnet(config).eval()
        frames = torch.zeros(1, config.visual_channels, rows, side)
        visual, audio = network(frames, torch.zeros(1, 1, 80, config.mel_steps))
    assert visual.shape == audio.shape
    if name in PARAMETERS:
        assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
