"""What trackers are told: TensorBoard's own files, and a stand-in for Weights & Biases."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from accelerate import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latentsync.errors import UsageError
from latentsync.media.write import Encoding, VideoWriter
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.log import TrainingLog
from latentsync.train.trackers import check_trackers

ROW = {"samples": 32, "steps": 4, "losses": {"total": 0.5}, "learning_rate": 1e-3}


def validated(output: Path) -> None:
    """What a validation after 32 samples leaves in the folder of a run."""
    video = output / "validation" / "samples-000000032" / "00-a.mp4"
    video.parent.mkdir(parents=True)
    with VideoWriter(
        video,
        width=64,
        height=32,
        fps=Fraction(25),
        like=None,
        speech=None,
        encoding=Encoding(preset="ultrafast"),
    ) as writer:
        for _ in range(3):
            writer.write(np.zeros((32, 64, 3), np.uint8))
    (output / "pictures").mkdir()
    cv2.imwrite(str(output / "pictures" / "learning.png"), np.zeros((8, 8, 3), np.uint8))


def run(output: Path, tracker: str) -> None:
    PartialState(cpu=True)  # of accelerate, which a training has
    recipe = load_recipe("syncnet", SyncNetRecipe)
    log = TrainingLog(output, samples=0, is_main=True, trackers=(tracker,), recipe=recipe)
    log.write(ROW)
    validated(output)
    log.show_files(32)
    log.close()


def test_tensorboard_has_scalars_pictures_and_the_recipe(tmp_path: Path) -> None:
    run(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("losses/total")] == [(32, 0.5)]
    assert "samples" not in events.Tags()["scalars"]
    assert sorted(events.Tags()["images"]) == ["pictures/learning", "validation/00-a"]
    (strip,) = events.Images("validation/00-a")
    assert (strip.step, strip.width, strip.height) == (32, 6 * 160, 80)
    assert b"seed = " in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]
    (stored,) = (tmp_path / "tensorboard").rglob("hparams.yml")
    assert "run.batch_samples: " in stored.read_text(encoding="utf-8")


def test_wandb_gets_the_video_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("wandb")
    told: list[tuple[int | None, dict[str, object]]] = []

    def update(values: dict[str, object], **_: object) -> None:
        told.append((None, values))

    module.config = type("Config", (), {"update": staticmethod(update)})
    module.run = type(
        "Run",
        (),
        {
            "log": staticmethod(lambda values, step=None: told.append((step, values))),
            "finish": staticmethod(lambda: None),
        },
    )
    module.init = lambda **options: told.append((None, options)) or module.run  # type: ignore[func-returns-value]
    module.Video = module.Image = lambda path: Path(path).name
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(tmp_path, "wandb")
    (_, options), (_, values), (_, text), (step, numbers), (_, shown) = told
    assert (options["project"], options["resume"]) == ("latentsync", "allow")
    assert values["seed"] == 42 and "seed = " in str(text["recipe"])
    assert (step, numbers) == (32, {"steps": 4, "losses/total": 0.5, "learning_rate": 1e-3})
    assert shown == {"validation/00-a": "00-a.mp4", "pictures/learning": "learning.png"}


def test_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--tracker mlflow: is not installed"):
        check_trackers(["mlflow"])
    with pytest.raises(UsageError, match="--tracker excel: is unknown"):
        check_trackers(["excel"])
