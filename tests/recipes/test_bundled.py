"""Every recipe in recipes/ loads against the schema of its kind, and values stand in recipes alone."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from latentsync.errors import RecipeError
from latentsync.recipe.evaluate import EvaluateRecipe, SetRecipe
from latentsync.recipe.loading import bundled_folder, bundled_names, load_recipe, stated_kind
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.recipe.schema import Recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from recipes.compact.adapter import AdapterRecipe
from recipes.compact.decoder import DecoderRecipe
from recipes.compact.landmarks import LandmarksRecipe
from recipes.compact.occlusion import OcclusionRecipe
from recipes.compact.vae import VAERecipe

SCHEMAS: tuple[type[Recipe], ...] = (
    SyncRecipe,
    PreprocessRecipe,
    SyncNetRecipe,
    UNetTrainingRecipe,
    EvaluateRecipe,
    SetRecipe,
    VAERecipe,
    AdapterRecipe,
    DecoderRecipe,
    LandmarksRecipe,
    OcclusionRecipe,
)
KINDS = {schema.kind: schema for schema in SCHEMAS}


@pytest.mark.parametrize("name", bundled_names())
def test_it_loads(name: str) -> None:
    load_recipe(name, KINDS[stated_kind(name) or ""])


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match="is a recipe of kind 'train-syncnet', expected 'train-unet'"):
        load_recipe("ablations/syncnet-batch-128", UNetTrainingRecipe)


SOURCE = re.compile(r"#.*\b(ours|official|paper)\b", re.IGNORECASE)
ABOUT = {  # keys that are no choice of anybody: what a file is, and texts about a set of clips
    *("kind", "extends", "title", "layout", "source", "licence", "paper_source", "method", "values"),
}


def lines_without_source(text: str) -> list[str]:
    """The `key = value` lines whose source neither they nor their table's header states.

    A file whose own header says "Every number is ours" needs no more.
    """
    header = text.split("\n\n")[0] if text.startswith("#") else ""
    if "every number is ours" in " ".join(re.findall(r"^# (.*)", header, re.MULTILINE)).lower():
        return []
    missing, is_stated = [], False
    for line in text.splitlines():
        if line.startswith("["):
            is_stated = SOURCE.search(line) is not None
            continue
        key = re.match(r"([\w-]+)\s*=", line)
        if key and key[1] not in ABOUT and not is_stated and not SOURCE.search(line):
            missing.append(line)
    return missing


def test_a_value_without_a_source_is_found() -> None:
    text = "# Whose is this?\nseed = 1   # ours\n[loss]   # paper\nsync = 0.05\n[run]\nsamples = 5\n"
    assert lines_without_source(text) == ["samples = 5"]
    assert not lines_without_source("# A recipe. Every number is ours.\nseed = 1\n")


@pytest.mark.parametrize("name", bundled_names())
def test_every_value_says_where_it_comes_from(name: str) -> None:
    text = (bundled_folder() / f"{name}.toml").read_text(encoding="utf-8")
    assert not lines_without_source(text)


def tables_of(schema: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {field.annotation for field in schema.model_fields.values()}
    tables = {table for table in inner if isinstance(table, type) and issubclass(table, BaseModel)}
    return {schema}.union(*(tables_of(table) for table in tables))


@pytest.mark.parametrize("schema", [schema for schema in SCHEMAS if schema.base is not None])
def test_values_stand_in_recipes_and_not_in_schemas(schema: type[Recipe]) -> None:
    defaults = {
        f"{table.__name__}.{name}": field.default
        for table in tables_of(schema)
        for name, field in table.model_fields.items()
        if not field.is_required() and field.default is not None
    }
    from_vae = {"UNetConfig.latent_channels", "SyncNetConfig.latent_channels"}  # which training takes from it
    assert defaults.keys() <= from_vae
