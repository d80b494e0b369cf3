"""Trains the landmark network on squares that a teacher network labelled."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentsync.events import Report
from latentsync.faces.landmarks import SQUARE_PER_EXTENT, LandmarkNet
from latentsync.recipe.schema import Amount, Count, Table
from latentsync.runtime import Seeds
from latentsync.train.loop import TrainingRun, ValidationShard
from recipes.compact.labelled_clips import ClipDraw, ClipGroup
from recipes.compact.landmark_data import (
    Augmentation,
    LabelledSquares,
    Squares,
    draw_batch,
    load_labels,
    straight_batch,
)
from recipes.compact.training import (
    Batch,
    Samples,
    TrainingRecipe,
    export_with_norms,
    fingerprint,
    train_to_the_end,
)


class LandmarksRecipe(TrainingRecipe):
    """`recipes/compact/landmarks.toml`.

    face_loss     weight of the binary cross-entropy of "this is a face"
    control_loss  of the three means that align a crop, which count once more
    """

    kind: ClassVar[str] = "compact/landmarks"

    groups: tuple[ClipGroup, ...] = Field(strict=False)
    face_loss: Amount
    control_loss: Amount
    augmentation: Augmentation
    validate_every_samples: Count


class LandmarkNetConfig(Table):
    """Nothing: the sizes of the landmark network are fixed."""


class LandmarksObjective:
    """The distance of the points, and the cross-entropy of whether there is a face."""

    def __init__(self, squares: LabelledSquares, recipe: LandmarksRecipe) -> None:
        self.squares, self.recipe, self.seeds = squares, recipe, Seeds(recipe.seed)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        drawn = self.draw(batch)
        points, face_logits = model(drawn.pictures_pm1.contiguous(memory_format=torch.channels_last))
        errors = point_losses(points, drawn.points, control_weight=self.recipe.control_loss)
        return {
            "points": errors[drawn.is_face > 0].mean(),
            "face": F.binary_cross_entropy_with_logits(face_logits, drawn.is_face),
        }

    def draw(self, batch: Batch) -> Squares:
        """The squares of a batch, changed all at once, which is much faster than one by one."""
        generator = self.seeds.generator(f"augmentation/{int(batch['number'][0])}")
        return draw_batch(self.squares, batch["square"], self.recipe.augmentation, generator)

    @property
    def weights(self) -> dict[str, float]:
        return {"points": 1.0, "face": self.recipe.face_loss}


class HeldOutError:
    """The mean distance to the teacher's points on held-out people, in distances between the eyes."""

    def __init__(self, squares: LabelledSquares) -> None:
        self.squares = squares

    def __call__(self, model: nn.Module, shard: ValidationShard) -> list[dict[str, float]]:
        errors = []
        for indices in torch.arange(shard.rank, len(self.squares), shard.processes).split(64):
            batch = straight_batch(self.squares, indices, side=SQUARE_PER_EXTENT)
            points, _ = model(batch.pictures_pm1)
            errors += ((points - batch.points).norm(dim=2).mean(1) / between_eyes(batch.points)).tolist()
        return [{"error": error} for error in errors]


def run(data: Path, output: Path, recipe: LandmarksRecipe, report: Report) -> Path:
    """Train on the labels in `data` and return the EMA weights, at half precision.

    Raises:
        MediaError: there are no labelled clips.
        RecipeError: the checkpoint is of another recipe.
    """
    labels = load_labels(data)
    held_out, squares = (labels.only(recipe.held_out, keep=keep) for keep in (True, False))
    torch.manual_seed(recipe.seed)  # model initialisation
    net = LandmarkNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    names = squares.sources.tolist()
    clip_draw = ClipDraw(names, [1] * len(names), recipe.groups)

    def draw(random: np.random.Generator) -> Batch:
        return {"square": torch.tensor(clip_draw.draw(random))}

    samples, objective = Samples(draw, recipe), LandmarksObjective(squares, recipe)
    weights = train_to_the_end(
        TrainingRun(
            recipe=recipe,
            model=net,
            network="",
            kind="landmarks",
            config=LandmarkNetConfig(),
            objective=objective,
            samples=samples,
            data=fingerprint(labels.sources.tolist()),
            output=output,
            validate=HeldOutError(held_out) if len(held_out) else None,
            validate_every_samples=recipe.validate_every_samples,
        ),
        report,
    )
    return export(weights, output / "landmarks.safetensors", objective, samples, recipe)


def export(
    weights: Path, target: Path, objective: LandmarksObjective, samples: Samples, recipe: LandmarksRecipe
) -> Path:
    """Write the EMA weights, as `export_with_norms` does."""
    batches = torch.utils.data.DataLoader(samples, batch_size=recipe.run.batch_samples)
    pictures = (objective.draw(batch).pictures_pm1 for batch in batches)
    return export_with_norms(
        weights, target, LandmarkNet(), pictures, kind="landmarks", config=LandmarkNetConfig()
    )


def between_eyes(points: Tensor) -> Tensor:
    """Distance between the centres of the eyes, (n) from (n 68 2)."""
    between = points[:, 36:42].mean(1) - points[:, 42:48].mean(1)
    return between.square().sum(1).sqrt()


def control_points(points: Tensor) -> Tensor:
    """The means of the eyebrows and of the nose (n 3 2), by which crops are aligned."""
    return torch.stack([points[:, 17:22].mean(1), points[:, 22:27].mean(1), points[:, 27:36].mean(1)], 1)


def point_losses(points: Tensor, target: Tensor, *, control_weight: float) -> Tensor:
    """Smooth L1 in eye distances, per square (n) from (n 68 2); the three control points count once more."""
    # A face seen from the side has eyes close together: the extent of the points bounds the unit.
    extent = (target.amax(1) - target.amin(1)).amax(1)
    unit = torch.maximum(between_eyes(target), 0.3 * extent)[:, None, None]

    def distance(found: Tensor, wanted: Tensor) -> Tensor:
        return F.smooth_l1_loss(found / unit, wanted / unit, beta=0.02, reduction="none").mean((1, 2))

    control = distance(control_points(points), control_points(target))
    return distance(points, target) + control_weight * control
