"""Which steps and guidance a run gets: the recipe's, its quality's, or the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentsync.diffusion.sampling import NO_SHORTCUTS
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.effort import choose_sampling, describe_sampling
from tests.sync.made_model import made_spec

FEW_STEPS = made_spec(steps=1, guidance=1.4)
MANY_STEPS = made_spec(steps=19, guidance=1.6, overlap_frames=4, prediction_type="epsilon")
SPECS = {"few": FEW_STEPS, "many": MANY_STEPS}


def recipe_of(*settings: str) -> SyncRecipe:
    return load_recipe("sync", SyncRecipe, overrides=settings)


def settled(model: str, *settings: str) -> tuple[int, float]:
    sampling = choose_sampling(recipe_of(*settings), SPECS[model])
    return sampling.steps, sampling.guidance


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("settings", [(), ("sampling.quality=standard",)])
def test_standard_is_what_the_model_states(model: str, settings: tuple[str, ...]) -> None:
    assert settled(model, *settings) == (SPECS[model].steps, SPECS[model].guidance)


@pytest.mark.parametrize(
    ("model", "quality", "expected"),
    [
        ("few", "draft", (1, 1.0)),
        ("few", "best", (2, 1.4)),
        ("many", "draft", (10, 1.6)),
        ("many", "best", (40, 1.6)),
    ],
)
def test_a_quality_means_something_for_every_model(
    model: str, quality: str, expected: tuple[int, float]
) -> None:
    assert settled(model, f"sampling.quality={quality}") == expected


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("quality", ["draft", "best"])
def test_what_is_set_wins_over_the_quality(model: str, quality: str) -> None:
    settings = f"sampling.quality={quality}", "sampling.steps=7", "sampling.guidance=0"
    assert settled(model, *settings) == (7, 0.0)


def test_a_recipe_may_say_what_a_quality_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("sampling.quality = 'draft'\n[quality.few_steps.best]\nsteps = 5\n")
    recipe = load_recipe(mine, SyncRecipe)
    assert recipe.effort.few_steps.best.steps == 5
    usual = load_recipe("sync", SyncRecipe)
    assert recipe.effort.few_steps.draft == usual.effort.few_steps.draft  # the others stay


@pytest.mark.parametrize(
    ("settings", "overlap_frames"),
    [
        ((), 4),
        (("sampling.overlap_frames=0",), 0),
        (("sampling.window_frames=6",), 3),
        (("sampling.mode=exact",), 0),
    ],
)
def test_windows_share_frames_as_far_as_they_can(settings: tuple[str, ...], overlap_frames: int) -> None:
    assert choose_sampling(recipe_of(*settings), MANY_STEPS).overlap_frames == overlap_frames


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ((), "standard: 1 step, guidance 1.4"),
        (("sampling.quality=best", "sampling.guidance=2"), "best: 2 steps, guidance 2 (set)"),
        (("sampling.quality=draft", "sampling.steps=3"), "draft: 3 steps (set), guidance 1"),
    ],
)
def test_the_plan_marks_what_was_set(settings: tuple[str, ...], line: str) -> None:
    recipe = recipe_of(*settings)
    assert describe_sampling(recipe, choose_sampling(recipe, FEW_STEPS)) == line


def test_fast_takes_shortcuts_and_exact_takes_none() -> None:
    assert choose_sampling(recipe_of("sampling.effort=fast"), MANY_STEPS).shortcuts.cache_interval == 2
    assert choose_sampling(recipe_of(), MANY_STEPS).shortcuts == NO_SHORTCUTS
    asked = "sampling.effort=fast", "sampling.cache_interval=3", "sampling.mode=exact"
    assert choose_sampling(recipe_of(*asked[:2]), MANY_STEPS).shortcuts.cache_interval == 3
    assert choose_sampling(recipe_of(*asked), MANY_STEPS).shortcuts == NO_SHORTCUTS
