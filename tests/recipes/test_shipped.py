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
    "preprocess": "latentsync.recipe.preprocess:PreprocessRecipe",
    "ablations/preprocess-no-adjustment": "latentsync.recipe.preprocess:PreprocessRecipe",
    "ablations/preprocess-adjust-before": "latentsync.recipe.preprocess:PreprocessRecipe",
    "compact/preprocess": "latentsync.recipe.preprocess:PreprocessRecipe",
    "sync": "latentsync.recipe.schema:SyncRecipe",
    "syncnet": "latentsync.recipe.train_syncnet:SyncNetRecipe",
    "compact/syncnet": "latentsync.recipe.train_syncnet:SyncNetRecipe",
    "compact/syncnet-small": "latentsync.recipe.train_syncnet:SyncNetRecipe",
    "compact/judge": "latentsync.recipe.train_syncnet:SyncNetRecipe",
    "evaluate": "latentsync.recipe.evaluate:EvaluateRecipe",
    "sets/hdtf": "latentsync.recipe.evaluate:SetRecipe",
    "sets/voxceleb2": "latentsync.recipe.evaluate:SetRecipe",
    "compact/landmarks": "landmarks:LandmarksRecipe",
    "compact/vae": "schemas:VAERecipe",
    "stage1": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "stage2": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "stage2-efficient": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "stage1-512": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "stage2-512": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "compact/stage1": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "compact/stage2": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "compact/mouth1": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "compact/mouth2": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-latent-syncnet": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-no-syncnet": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-pixel-syncnet": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-plain": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-temporal-layer": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-trepa": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-wav2lip-trepa": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "ablations/unet-wav2lip": "latentsync.recipe.train_unet:UNetTrainingRecipe",
    "compact/unet": "schemas:CompactUNetRecipe",
    "compact/decoder": "schemas:DecoderRecipe",
}

KINDS |= {
    name: "latentsync.recipe.train_syncnet:SyncNetRecipe"
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
