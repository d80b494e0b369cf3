"""Trains the occlusion network on faces with something drawn in front of them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import to_pm1
from latentsync.events import Report
from latentsync.faces.occlusion import OcclusionNet
from latentsync.recipe.schema import Amount, Count, Names, Share, Table
from latentsync.train.loop import TrainingRun, ValidationShard
from recipes.compact.occlusion_data import Faces, occluded
from recipes.compact.training import (
    Batch,
    Samples,
    TrainingRecipe,
    export_with_norms,
    fingerprint,
    train_to_the_end,
)

VALIDATION_SEED = 77


class OcclusionRecipe(TrainingRecipe):
    """`recipes/compact/occlusion.toml`.

    occluded_share  of the faces, that have something in front of them
    overlap_loss    weight of the soft Dice loss beside the binary cross-entropy
    left_out        people with something in front of them as it is, who would be labelled wrongly
    held_out_faces  drawn once for validation
    """

    kind: ClassVar[str] = "compact/occlusion"

    occluded_share: Share
    overlap_loss: Amount
    left_out: Names
    held_out_faces: Count
    validate_every_samples: Count


class OcclusionNetConfig(Table):
    """Nothing: the sizes of the occlusion network are fixed."""


class OcclusionObjective:
    """The binary cross-entropy of each pixel, and the soft Dice loss of the occluded ones of a batch.

    Source of the latter: Milletari et al. 2016.
    """

    def __init__(self, recipe: OcclusionRecipe) -> None:
        self.weights = {"pixels": 1.0, "overlap": recipe.overlap_loss}

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(pictures_pm1(batch))
        covered, weight = batch["covered"], batch["weight"]
        each = functional.binary_cross_entropy_with_logits(logits, covered, reduction="none")
        sure = logits.sigmoid() * weight
        both = (sure * covered).sum()
        overlap = 2 * both / (sure.sum() + (covered * weight).sum() + 1)
        return {"pixels": (each * weight).sum() / weight.sum(), "overlap": 1 - overlap}


class HeldOutOverlap:
    """The intersection over union on faces and occluders that are not trained on, over all their pixels."""

    def __init__(self, faces: Faces, recipe: OcclusionRecipe) -> None:
        random = np.random.default_rng(VALIDATION_SEED)
        self.drawn = [sample(faces, random, recipe) for _ in range(recipe.held_out_faces)]

    def __call__(self, model: nn.Module, shard: ValidationShard) -> list[dict[str, float]]:
        batch = {name: torch.stack([one[name] for one in self.drawn]) for name in self.drawn[0]}
        found = torch.cat([model(part) > 0 for part in pictures_pm1(batch).split(64)])
        covered, on_face = batch["covered"] > 0, batch["weight"] == 1
        both, either = (found & covered & on_face).sum(), ((found | covered) & on_face).sum()
        free = on_face & ~covered
        return [{"iou": float(both / either), "false_share": float((found & free).sum() / free.sum())}]


def pictures_pm1(batch: Batch) -> Tensor:
    """The pictures (n c h w) of a batch in -1..1, laid out as convolutions on a CPU like them."""
    return to_pm1(batch["picture_u8"]).contiguous(memory_format=torch.channels_last)


def sample(faces: Faces, random: np.random.Generator, recipe: OcclusionRecipe) -> Batch:
    """A face (c h w) with where it is covered (h w) and what its pixels count (h w)."""
    picture_u8, covered, weight = occluded(faces, random, share=recipe.occluded_share)
    return {
        "picture_u8": torch.from_numpy(picture_u8).permute(2, 0, 1),
        "covered": torch.from_numpy(covered),
        "weight": torch.from_numpy(weight),
    }


def run(data: Path, output: Path, recipe: OcclusionRecipe, report: Report) -> Path:
    """Train on the faces and hands in `data` and return the EMA weights, at half precision.

    Raises:
        MediaError: a file is missing.
        RecipeError: the checkpoint is of another recipe.
    """
    faces = Faces(data, without=(*recipe.held_out, *recipe.left_out))
    held_out = Faces(data, only=recipe.held_out, without=recipe.left_out)
    torch.manual_seed(recipe.seed)  # model initialisation
    net = OcclusionNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = Samples(lambda random: sample(faces, random, recipe), recipe)
    weights = train_to_the_end(
        TrainingRun(
            recipe=recipe,
            model=net,
            network="",
            kind="occlusion",
            config=OcclusionNetConfig(),
            objective=OcclusionObjective(recipe),
            samples=samples,
            data=fingerprint([str(len(faces.faces_u8)), *map(str, faces.material.hands_u8.shape)]),
            output=output,
            validate=HeldOutOverlap(held_out, recipe),
            validate_every_samples=recipe.validate_every_samples,
        ),
        report,
    )
    return export(weights, output / "occlusion.safetensors", samples, recipe)


def export(weights: Path, target: Path, samples: Samples, recipe: OcclusionRecipe) -> Path:
    """Write the EMA weights, as `export_with_norms` does."""
    batches = torch.utils.data.DataLoader(samples, batch_size=recipe.run.batch_samples)
    pictures = map(pictures_pm1, batches)
    return export_with_norms(
        weights, target, OcclusionNet(), pictures, kind="occlusion", config=OcclusionNetConfig()
    )
