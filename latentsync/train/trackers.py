"""Where a training is shown besides its own log: TensorBoard, wandb or MLflow, through accelerate."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.errors import UsageError
from latentsync.media.read import read_frames

NAMES = ("tensorboard", "wandb", "mlflow")
PROJECT = "latentsync"
STRIP_FRAMES, STRIP_PX = 6, 160


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or not installed, before anything is loaded.

    Raises:
        UsageError: it is.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--tracker {name}: is unknown", hint=f"use one of {', '.join(NAMES)}")
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--tracker {name}: is not installed", hint=f"run: pip install {name}")


class Trackers:
    """The trackers of one run. Steps are samples, as in the log."""

    def __init__(
        self, names: Sequence[str], output: Path, *, samples: int, values: Mapping[str, Any], text: str
    ) -> None:
        """Start them.

        Args:
            samples: how many the run has seen; a resumed run goes on in the same curves.
            values: the recipe as nested tables, for the list of hyperparameters.
            text: the recipe as text.
        """
        self._trackers = [_start(name, output, samples) for name in names]
        for tracker in self._trackers if samples == 0 else ():
            tracker.store_init_configuration(_flat(values))
            if tracker.name != "mlflow":  # which takes numbers only
                tracker.log({"recipe": text}, step=0)

    def log(self, numbers: Mapping[str, float], samples: int) -> None:
        """Show numbers by name."""
        for tracker in self._trackers:
            tracker.log(dict(numbers), step=samples)

    def show_files(self, output: Path, samples: int) -> None:
        """Show the validation's videos and the run's pictures, as far as the trackers take them."""
        videos = sorted((output / "validation" / f"samples-{samples:09d}").glob("*.mp4"))
        pictures = sorted((output / "pictures").glob("*.png"))
        for tracker in self._trackers:
            show = {"tensorboard": _show_in_tensorboard, "wandb": _show_in_wandb, "mlflow": _show_in_mlflow}
            show[tracker.name](tracker, videos, pictures, samples)

    def close(self) -> None:
        """End them, so that everything is written."""
        for tracker in self._trackers:
            tracker.finish()


def _start(name: str, output: Path, samples: int) -> Any:
    from accelerate import tracking

    tracker: Any
    if name == "tensorboard":
        purge_step = samples + 1 if samples else None
        tracker = tracking.TensorBoardTracker(name, str(output), purge_step=purge_step)
    elif name == "wandb":
        identity = hashlib.sha256(str(output.absolute()).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        tracker = tracking.WandBTracker(
            PROJECT, name=output.name, dir=str(output), id=identity, resume="allow"
        )
    else:
        tracker = tracking.MLflowTracker(PROJECT, logging_dir=str(output / "mlflow"), run_name=output.name)
    if hasattr(tracker, "start"):  # accelerate below 1.8 starts at once
        tracker.start()
    return tracker


def _show_in_tensorboard(
    tracker: Any, videos: Sequence[Path], pictures: Sequence[Path], samples: int
) -> None:
    shown = {f"validation/{path.stem}": _strip(path) for path in videos}
    shown |= {f"pictures/{path.stem}": _picture(path) for path in pictures}
    for name, image in shown.items():
        tracker.log_images({name: image[None]}, step=samples, dataformats="NHWC")


def _show_in_wandb(tracker: Any, videos: Sequence[Path], pictures: Sequence[Path], samples: int) -> None:
    import wandb

    shown = {f"validation/{path.stem}": wandb.Video(str(path)) for path in videos}
    shown |= {f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures}
    if shown:
        tracker.log(shown, step=samples)


def _show_in_mlflow(tracker: Any, videos: Sequence[Path], pictures: Sequence[Path], samples: int) -> None:
    for path in videos:
        tracker.log_artifact(str(path), artifact_path=f"validation/samples-{samples:09d}")
    for path in pictures:
        tracker.log_artifact(str(path), artifact_path="pictures")


def _strip(path: Path) -> NDArray[np.uint8]:
    """Frames of a video side by side (h w c): TensorBoard shows videos only with one more library."""
    frames = [frame.rgb_u8 for frame in read_frames(path)]
    chosen = [frames[index * (len(frames) - 1) // (STRIP_FRAMES - 1)] for index in range(STRIP_FRAMES)]
    height = max(1, round(STRIP_PX * chosen[0].shape[0] / chosen[0].shape[1]))
    tiles = [cv2.resize(frame, (STRIP_PX, height), interpolation=cv2.INTER_AREA) for frame in chosen]
    return np.asarray(np.hstack(tiles), np.uint8)


def _picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested tables by dotted keys, with values that every tracker takes."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
