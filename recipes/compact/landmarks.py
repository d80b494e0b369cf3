"""Trains the landmark network on squares that a teacher network labelled."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from landmark_data import (
    Augmentation,
    LabelledSquares,
    draw_batch,
    load_labels,
    straight_batch,
)
from pydantic import Field
from safetensors.torch import save_file
from schemas import ClipGroup
from torch import Tensor

from latentsync.events import Measured, Note, Plan, Progress, Report
from latentsync.faces.landmarks import SQUARE_PER_EXTENT, LandmarkNet
from latentsync.recipe.schema import Recipe
from latentsync.runtime import Seeds


class LandmarksRecipe(Recipe):
    """What the landmark network is trained on and how."""

    kind: ClassVar[str] = "compact/landmarks"

    steps: int = Field(gt=0)
    batch_squares: int = Field(gt=0)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    average_decay: float = Field(ge=0, lt=1)
    face_loss: float = Field(ge=0)
    control_loss: float = Field(ge=0)
    held_out: tuple[str, ...] = Field(strict=False)
    groups: tuple[ClipGroup, ...] = Field(strict=False)
    augmentation: Augmentation


@dataclass(frozen=True, slots=True)
class TrainLandmarksJob:
    """Where the labels are and where the weights go; `save_every_s` between intermediate weights."""

    labels: Path
    output: Path
    save_every_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """`error` is the mean distance to the teacher's points on held-out people, in distances between eyes."""

    weights: Path
    error: float


def run(job: TrainLandmarksJob, recipe: LandmarksRecipe, report: Report) -> Result:
    """Train the network, keeping an average of its weights, and write that average as fp16 safetensors."""
    labels = load_labels(job.labels)
    held_out = labels.only(recipe.held_out, keep=True)
    squares = labels.only(recipe.held_out, keep=False)
    chances = _chances(squares, recipe)
    report(Plan((f"{len(squares)} squares to train on, {len(held_out)} held out", f"{recipe.steps} steps")))
    seeds = Seeds(recipe.seed)
    torch.manual_seed(recipe.seed)
    net = LandmarkNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    random = seeds.generator("augmentation")
    saved_s = time.monotonic()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        indices = torch.multinomial(chances, recipe.batch_squares, replacement=True, generator=random)
        batch = draw_batch(squares, indices, recipe.augmentation, random)
        points, face_logits = net(batch.pictures_pm1.contiguous(memory_format=torch.channels_last))
        point_loss = _point_loss(points, batch.points, recipe.control_loss)[batch.is_face > 0].mean()
        face_loss = F.binary_cross_entropy_with_logits(face_logits, batch.is_face)
        optimizer.zero_grad()
        (point_loss + recipe.face_loss * face_loss).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        _follow(average, net, min(recipe.average_decay, (1 + step) / (10 + step)))
        if step % 50 == 0:
            report(Progress("train", step, recipe.steps, "steps"))
            report(Measured(step, {"points": point_loss.item(), "face": face_loss.item()}))
        if time.monotonic() - saved_s > job.save_every_s:
            error = _save(average, held_out, job.output, step=step)
            report(Measured(step, {"held_out": error}))
            saved_s = time.monotonic()
    error = _save(average, held_out, job.output, step=recipe.steps)
    report(Note(f"held-out error {error:.4f} of the distance between the eyes"))
    return Result(job.output, error)


def _chances(squares: LabelledSquares, recipe: LandmarksRecipe) -> Tensor:
    """How often each square is drawn, so that each group has its share whatever its size."""
    chances = torch.zeros(len(squares))
    numbers = {name: index for index, name in enumerate(squares.sources.tolist())}
    for group in recipe.groups:
        chosen = set(squares.only((group.files,), keep=True).sources.tolist()) & set(numbers)
        is_chosen = torch.tensor([name in chosen for name in squares.sources.tolist()])
        chances[is_chosen] = group.share / max(1, int(is_chosen.sum()))
    return chances


def _learning_rate(step: int, recipe: LandmarksRecipe) -> float:
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    return recipe.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def between_eyes(points: Tensor) -> Tensor:
    """Distance between the centres of the eyes, (n,) from (n 68 2)."""
    between = points[:, 36:42].mean(1) - points[:, 42:48].mean(1)
    return between.square().sum(1).sqrt()


def _control(points: Tensor) -> Tensor:
    return torch.stack([points[:, 17:22].mean(1), points[:, 22:27].mean(1), points[:, 27:36].mean(1)], 1)


def _point_loss(points: Tensor, target: Tensor, control_weight: float) -> Tensor:
    """Smooth L1 in eye distances, per square; the three control points count once more."""
    # A face seen from the side has eyes close together: the extent of the points bounds the unit.
    extent = (target.amax(1) - target.amin(1)).amax(1)
    unit = torch.maximum(between_eyes(target), 0.3 * extent)[:, None, None]

    def distance(found: Tensor, wanted: Tensor) -> Tensor:
        return F.smooth_l1_loss(found / unit, wanted / unit, beta=0.02, reduction="none").mean((1, 2))

    return distance(points, target) + control_weight * distance(_control(points), _control(target))


def _follow(average: LandmarkNet, net: LandmarkNet, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


@torch.inference_mode()
def _save(net: LandmarkNet, held_out: LabelledSquares, path: Path, *, step: int) -> float:
    errors = []
    for indices in torch.split(torch.arange(len(held_out)), 64):
        batch = straight_batch(held_out, indices, side=SQUARE_PER_EXTENT)
        points, _ = net(batch.pictures_pm1)
        errors.append((points - batch.points).norm(dim=2).mean(1) / between_eyes(batch.points))
    error = float(torch.cat(errors).mean()) if errors else math.nan
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    facts = {"steps": step, "held_out_error": round(error, 4), "licence": "Apache-2.0"}
    note = {"format": "latentsync-1", "kind": "landmarks", "config": "{}", "facts": json.dumps(facts)}
    save_file(tensors, part, metadata=note)
    part.chmod(0o644)  # safetensors writes files that only their owner may read
    part.replace(path)
    return error
