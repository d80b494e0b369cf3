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
    "sync": "latentsync.recipe.schema:SyncRecipe",
    "compact/landmarks": "latentsync.train_landmarks:LandmarksRecipe",
    "compact/vae": "latentsync.recipe.schema:VAERecipe",
    "compact/unet": "latentsync.recipe.schema:UNetRecipe",
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
