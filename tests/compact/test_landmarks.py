"""Training of the landmark network on made squares: it learns, resumes, and writes what `sync` loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.faces.landmarks import load_landmarks
from latentsync.recipe.loading import load_recipe
from latentsync.train.log import read_log
from recipes.compact.landmark_data import (
    MIRRORED,
    Augmentation,
    draw_batch,
    load_labels,
    straight_batch,
)
from recipes.compact.landmarks import LandmarksRecipe, point_losses, run
from tests.compact.trainer_runs import check_resumed_run, losses_of, tiny_run

SETTINGS = (
    "run.average_decay=0.5",
    "validate_every_samples=64",
    *tiny_run(samples=128, batch_samples=8, learning_rate=3e-3),
)


def test_it_learns_resumes_and_sync_can_load_it(make_clips: Callable[..., Path], tmp_path: Path) -> None:
    data = make_clips("news-a", "assorted-b", "assorted-voxceleb_07")  # the last is held out
    recipe = load_recipe("compact/landmarks", LandmarksRecipe, overrides=SETTINGS)
    weights = check_resumed_run(
        lambda output, report: run(data, output, recipe, report), tmp_path / "whole", tmp_path / "stopped"
    )
    losses = losses_of(tmp_path / "whole", "points")
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    validated = [row["validation"]["error"] for row in read_log(tmp_path / "whole") if "validation" in row]
    assert len(validated) == 2 and all(error > 0 for error in validated)
    points, confidence = load_landmarks(weights).points(np.zeros((96, 96, 3), np.uint8), (48, 48, 60))
    assert points.shape == (68, 2) and 0 <= confidence <= 1
    labels = load_labels(data).only(("news-a",), keep=True)
    assert np.abs(points - 48).max() < 40 and len(labels) == 3


def test_straight_squares_hold_the_points(make_clips: Callable[..., Path]) -> None:
    labels = load_labels(make_clips("a"))
    batch = straight_batch(labels, torch.arange(3), side=1.5)
    extent = (batch.points.amax(1) - batch.points.amin(1)).amax(1)
    assert extent.tolist() == pytest.approx([1 / 1.5] * 3)
    assert batch.points.min() >= 0 and batch.points.max() <= 1


def test_points_move_with_their_picture(make_clips: Callable[..., Path]) -> None:
    """Whatever is drawn, the points are where the dots are: brighter than the average by far."""
    labels = load_labels(make_clips("a"))
    augmentation = Augmentation(side_min=1.2, side_max=1.5, shift=0.1, rotation_deg=25, negatives=0)
    batch = draw_batch(labels, torch.arange(3), augmentation, torch.Generator().manual_seed(3))
    grid = 2 * batch.points[:, None] * 96 / 95 - 1  # n 1 68 2
    at_points = torch.nn.functional.grid_sample(batch.pictures_pm1, grid, align_corners=True)
    brighter = at_points.mean((1, 2, 3)) - batch.pictures_pm1.mean((1, 2, 3))
    assert (brighter > 0.2).all()


def test_mirroring_twice_changes_nothing() -> None:
    assert [MIRRORED[index] for index in MIRRORED] == list(range(68))


def test_point_losses_do_not_depend_on_the_size_of_the_face() -> None:
    target = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    found = target + 0.1
    large = point_losses(2 * found, 2 * target, control_weight=1.0)
    assert torch.allclose(point_losses(found, target, control_weight=1.0), large, atol=1e-5)
    assert (point_losses(target, target, control_weight=1.0) == 0).all()
