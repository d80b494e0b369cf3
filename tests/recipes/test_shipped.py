"""Every recipe in recipes/ loads against its schema, with no exception."""

from __future__ import annotations

import importlib
import re

import pytest
from pydantic import BaseModel

from latentsync.recipe.loading import load_recipe, shipped_folder, shipped_names
from latentsync.recipe.schema import SyncRecipe

# The schema of each shipped recipe. A new file in recipes/ needs a line here, or the first test fails.
KINDS = {
    "preprocess": "latentsync.recipe.preprocessing:PreprocessRecipe",
    "ablations/preprocess-no-adjustment": "latentsync.recipe.preprocessing:PreprocessRecipe",
    "ablations/preprocess-adjust-before": "latentsync.recipe.preprocessing:PreprocessRecipe",
    "compact/preprocess": "latentsync.recipe.preprocessing:PreprocessRecipe",
    "sync": "latentsync.recipe.schema:SyncRecipe",
    "syncnet": "latentsync.recipe.training:SyncNetRecipe",
    "compact/syncnet": "latentsync.recipe.training:SyncNetRecipe",
    "compact/syncnet-small": "latentsync.recipe.training:SyncNetRecipe",
    "evaluate": "latentsync.recipe.sets:EvaluateRecipe",
    "sets/hdtf": "latentsync.recipe.sets:SetRecipe",
    "sets/voxceleb2": "latentsync.recipe.sets:SetRecipe",
    "compact/landmarks": "latentsync.train_landmarks:LandmarksRecipe",
    "compact/vae": "latentsync.recipe.schema:VAERecipe",
    "stage1": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "stage2": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "stage2-efficient": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "stage1-512": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "stage2-512": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "compact/stage1": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "compact/stage2": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-latent-syncnet": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-no-syncnet": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-pixel-syncnet": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-plain": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-temporal-layer": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-trepa": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-wav2lip-trepa": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "ablations/unet-wav2lip": "latentsync.recipe.unet_training:UNetTrainingRecipe",
    "compact/unet": "latentsync.recipe.schema:CompactUNetRecipe",
    "compact/decoder": "latentsync.recipe.compact_training:DecoderRecipe",
}

KINDS |= {
    name: "latentsync.recipe.training:SyncNetRecipe"
    for name in shipped_names()
    if name.startswith("ablations/syncnet-")
}


def kind_of(name: str) -> type[BaseModel]:
    module, kind = KINDS[name].split(":")
    found = getattr(importlib.import_module(module), kind)
    assert issubclass(found, BaseModel)
    return found


def test_every_shipped_recipe_has_a_kind() -> None:
    assert not set(shipped_names()) - set(KINDS)


@pytest.mark.parametrize("name", shipped_names())
def test_it_loads(name: str) -> None:
    load_recipe(name, kind_of(name))


@pytest.mark.parametrize("name", shipped_names())
def test_every_table_says_where_its_values_come_from(name: str) -> None:
    text = (shipped_folder() / f"{name}.toml").read_text(encoding="utf-8")
    assert re.search(r"#.*\b(ours|official|paper)\b", text, re.IGNORECASE)


def test_the_sync_recipe_is_its_defaults() -> None:
    assert load_recipe("sync", SyncRecipe) == SyncRecipe()
