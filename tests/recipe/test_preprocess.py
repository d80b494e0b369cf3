"""The recipe of preprocessing."""

from __future__ import annotations

import pytest

from latentsync.errors import RecipeError
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe


def test_ablations_differ_in_one_value() -> None:
    usual = load_recipe("preprocess", PreprocessRecipe)
    for name, adjust in (("no-adjustment", "none"), ("adjust-before", "before")):
        ablation = load_recipe(f"ablations/preprocess-{name}", PreprocessRecipe)
        changed = usual.sync.model_copy(update={"adjust": adjust})
        assert ablation == usual.model_copy(update={"sync": changed})


@pytest.mark.parametrize("pattern", ["id[0-9]+", "(a)(b)", "(a"])
def test_the_person_is_one_group(pattern: str) -> None:
    with pytest.raises(RecipeError, match="person_pattern") as failure:
        load_recipe("preprocess", PreprocessRecipe, overrides=[f"split.person_pattern='{pattern}'"])
    assert failure.value.hint == "change split.person_pattern"
