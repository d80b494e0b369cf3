"""What a recipe and a model together say about sampling: who wins, and what an effort stands for."""

from __future__ import annotations

import latentsync.recipe.sync as recipe_sync
from latentsync.diffusion.sampling import NO_SHORTCUTS, Shortcuts
from latentsync.recipe.sync import Effort, SyncRecipe
from latentsync.sync.denoiser import Sampling
from latentsync.weights.models import ModelSpec


def choose_sampling(recipe: SyncRecipe, spec: ModelSpec) -> Sampling:
    """Settle steps and guidance: the recipe's own keys win, then its effort, then what the model states."""
    chosen, is_exact = recipe.sampling, recipe.sampling.mode == "exact"
    effort = _effort(recipe, spec)
    guidances = chosen.guidance, effort.guidance, spec.guidance
    overlap = spec.overlap_frames if chosen.overlap_frames is None else chosen.overlap_frames
    return Sampling(
        steps=chosen.steps or effort.steps or spec.steps,
        guidance=next(guidance for guidance in guidances if guidance is not None),
        window_frames=chosen.window_frames,
        overlap_frames=0 if is_exact else min(overlap, chosen.window_frames // 2),
        is_exact=is_exact,
        seed=recipe.seed,
        shortcuts=NO_SHORTCUTS if is_exact else _shortcuts(chosen, effort),
    )


def _shortcuts(chosen: recipe_sync.Sampling, effort: Effort) -> Shortcuts:
    found = {}
    for name in ("cache_interval", "guided_from", "guided_to"):
        values = getattr(chosen, name), getattr(effort, name), getattr(NO_SHORTCUTS, name)
        found[name] = next(value for value in values if value is not None)
    return Shortcuts(**found)


def describe_sampling(recipe: SyncRecipe, sampling: Sampling) -> str:
    """Say in one line what was settled, with a mark on what the recipe set itself, beside its effort."""
    chosen, plural = recipe.sampling, "s" if sampling.steps > 1 else ""
    steps_mark, guidance_mark = ("" if key is None else " (set)" for key in (chosen.steps, chosen.guidance))
    shortcuts = sampling.shortcuts
    cached = f", a full one every {shortcuts.cache_interval}" if shortcuts.cache_interval > 1 else ""
    return (
        f"{chosen.effort}: {sampling.steps} step{plural}{steps_mark}{cached}, "
        f"guidance {sampling.guidance:g}{guidance_mark}"
    )


def _effort(recipe: SyncRecipe, spec: ModelSpec) -> Effort:
    """What the effort sets for this kind of model: one that gives clean latents is done in few steps."""
    effort = recipe.sampling.effort
    if effort == "standard":
        return Effort()
    kind = recipe.effort.few_steps if spec.prediction_type == "sample" else recipe.effort.many_steps
    return {"fast": kind.fast, "draft": kind.draft, "best": kind.best}[effort]
