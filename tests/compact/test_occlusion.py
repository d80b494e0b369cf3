"""Training of the occlusion network on made faces: it learns, resumes, and writes what `sync` loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import MediaError
from latentsync.faces.occlusion import load_occlusion
from latentsync.recipe.loading import load_recipe
from latentsync.train.log import read_log
from recipes.compact.occluders import KINDS, SIDE_PX, Kind
from recipes.compact.occlusion import OcclusionRecipe, run
from recipes.compact.occlusion_data import Faces, occluded
from tests.compact.trainer_runs import check_resumed_run, losses_of, tiny_run

SETTINGS = (
    "run.average_decay=0.5",
    "validate_every_samples=64",
    "held_out_faces=4",
    *tiny_run(samples=128, batch_samples=8, learning_rate=3e-3),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Smooth grey faces of two people, of whom q000 is held out, with striped hands of two people."""
    random = np.random.default_rng(7)
    folder = tmp_path / "data"
    folder.mkdir()
    angles = np.linspace(np.pi, 0, 17)
    points = (64 + 18 * random.standard_normal((68, 2))).astype(np.float32)
    points[:17] = np.stack([64 + 50 * np.cos(angles), 60 + 60 * np.sin(angles)], 1)
    points[17:27] = np.stack([np.linspace(18, 110, 10), np.full(10, 20)], 1)
    hands = np.zeros((4, 96, 96, 4), np.uint8)
    hands[:, ::4], hands[:, 20:70, 20:70, 3] = 200, 255
    np.savez(
        folder / "faces.npz",
        faces_u8=np.full((4, 128, 128, 3), 120, np.uint8) + random.integers(0, 9, (4, 128, 128, 3), np.uint8),
        points=np.stack([points] * 4),
        people=np.array(["q000", "q001", "q001", "q001"]),
        things_u8=random.integers(0, 255, (20, 128, 128, 3), np.uint8),
    )
    np.savez(folder / "hands.npz", rgba_u8=hands, people=np.array(["q001", "q001", "q002", "q002"]))
    return folder


def test_it_learns_resumes_and_sync_can_load_it(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("compact/occlusion", OcclusionRecipe, overrides=SETTINGS)
    weights = check_resumed_run(
        lambda output, report: run(data, output, recipe, report), tmp_path / "whole", tmp_path / "stopped"
    )
    losses = losses_of(tmp_path / "whole", "pixels")
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    validated = [row["validation"] for row in read_log(tmp_path / "whole") if "validation" in row]
    assert len(validated) == 2 and all(0 <= row["iou"] <= 1 for row in validated)
    assert load_occlusion(weights).find(np.zeros((256, 256, 3), np.uint8)).shape == (96, 96)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_drawn_is_marked(data: Path, kind: Kind) -> None:
    faces, marked = Faces(data), []
    for seed in range(8):
        random = np.random.default_rng(seed)
        picture_u8, covers, weight = occluded(faces, random, share=1.0, kinds=(kind,))
        assert picture_u8.shape == (SIDE_PX, SIDE_PX, 3) and picture_u8.dtype == np.uint8
        assert set(np.unique(covers)) <= {0, 1} and weight.max() == 1
        marked.append(covers.mean())
    assert 0.005 < np.mean(marked) < 0.7


def test_nothing_is_marked_on_a_free_face(data: Path) -> None:
    random = np.random.default_rng(1)
    assert not any(occluded(Faces(data), random, share=0.0)[1].any() for _ in range(10))


def test_people_hands_and_textures_are_held_out(data: Path) -> None:
    trained, held_out = Faces(data, without=("q000",)), Faces(data, only=("q000",))
    assert (len(trained.faces_u8), len(held_out.faces_u8)) == (3, 1)
    assert (len(trained.material.hands_u8), len(held_out.material.hands_u8)) == (2, 2)
    assert (len(trained.material.things_u8), len(held_out.material.things_u8)) == (18, 2)
    with pytest.raises(MediaError, match="no face of nobody"):
        Faces(data, only=("nobody",))
