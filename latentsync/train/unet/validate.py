"""Validation of a generator on clips that it was not trained on: losses, videos to look at, and Sync_conf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.errors import MediaError, WeightsError
from latentsync.events import Note, Report
from latentsync.manifest import ManifestClip
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, write_video
from latentsync.metrics.sync import SyncJudge, choose_judge, score_sync
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.clips import choose_evenly
from latentsync.train.log import Row, draw_panels
from latentsync.train.loop import Batch, Objective, ValidationShard
from latentsync.train.unet.data import LipSource


class GeneratorObjective(Objective, Protocol):
    """An objective that can also generate frames."""

    def generate(self, model: nn.Module, batch: Batch) -> NDArray[np.uint8]:
        """The frames (f h w c) of a batch of one window, with references as `sync` gives them."""


class UNetValidation:
    """Measures every clip of a process's share and writes its video; the loop calls it.

    Measures of a clip: each loss, their weighted sum `loss`, and `confidence`, `offset_frames`, `distance`.

    Args:
        judge: measures Sync_conf; None leaves it out.
    """

    def __init__(
        self,
        recipe: UNetTrainingRecipe,
        clips: Sequence[ManifestClip],
        source: LipSource,
        objective: GeneratorObjective,
        judge: SyncJudge | None,
    ) -> None:
        self.windows, self.source, self.objective, self.judge = (
            recipe.validation.windows,
            source,
            objective,
            judge,
        )
        self.warps = bool(recipe.network.warp_widths)
        self.clips = choose_evenly(self._long_enough(clips), recipe.validation.clips)

    def __call__(self, model: nn.Module, shard: ValidationShard) -> list[dict[str, float]]:
        measured = []
        folder = shard.output / "validation" / f"samples-{shard.samples:09d}"
        for index, clip, counts in shard.share_of(self.clips):
            losses = self.losses_of(model, clip, first_number=index)
            frames = self.generate(model, clip)
            if counts:
                weights = self.objective.weights
                total = sum(weight * losses[name] for name, weight in weights.items())
                _write_video(folder / f"{index:02d}-{clip.path.stem}.mp4", frames, clip)
                measured.append({**losses, "loss": total, **_score(self.judge, frames, clip)})
        return measured

    def losses_of(self, model: nn.Module, clip: ManifestClip, *, first_number: int) -> dict[str, float]:
        """Mean losses of `windows` windows of the clip; noise and timesteps are the same every time."""
        starts = self.source.windows.starts_in(clip)
        total: dict[str, float] = {}
        for index in range(self.windows):
            # Spread evenly, so that the whole clip is measured.
            start = index * (starts - 1) // max(1, self.windows - 1)
            batch = _batch_of_one(self.source.sample(clip, start, self.source.farthest(clip, start)), model)
            # Samples of the training are numbered from 0, so that these share no noise with them.
            batch["number"] = torch.tensor([-1 - (first_number * self.windows + index)])
            for name, loss in self.objective.losses(model, batch).items():
                total[name] = total.get(name, 0.0) + loss.item() / self.windows
        return total

    def generate(self, model: nn.Module, clip: ManifestClip) -> NDArray[np.uint8]:
        """Generate `windows` windows from the start of a clip: the frames (f h w c).

        Of a shorter clip the last whole window is generated again, to be as much work, and left out. A
        reference that is warped is the farthest there is: with the window itself the mouth would be known.
        """
        frames = self.source.frames
        whole = max(1, (self.source.windows.starts_in(clip) - 1) // frames + 1)
        made = []
        for index in range(self.windows):
            start = min(index, whole - 1) * frames
            other = self.source.farthest(clip, start) if self.warps else start
            batch = _batch_of_one(self.source.sample(clip, start, other), model)
            made.append(self.objective.generate(model, batch))
        return np.concatenate(made[:whole])

    def _long_enough(self, clips: Sequence[ManifestClip]) -> Sequence[ManifestClip]:
        """The clips that hold all windows: a SyncNet has no confidence in short ones. All, if none does."""
        needed = (self.windows - 1) * self.source.frames + 1
        return [clip for clip in clips if self.source.windows.starts_in(clip) >= needed] or clips


def find_judge(device: torch.device, report: Report) -> SyncJudge | None:
    """The judge that measures Sync_conf: SyncNet v2, else the bundled one, else None."""
    try:
        return choose_judge("auto", device=device)
    except WeightsError as error:
        report(Note(f"validation without Sync_conf: {error}", "warning"))
        return None


def _batch_of_one(sample: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor[None].to(device) for name, tensor in sample.items()}


def _score(judge: SyncJudge | None, frames: NDArray[np.uint8], clip: ManifestClip) -> dict[str, float]:
    if judge is None:
        return {}
    samples = read_audio(clip.path, rate_hz=AUDIO_HZ, end_s=len(frames) / VIDEO_FPS).samples
    try:
        score = score_sync(judge, frames, samples)
    except MediaError:  # too short for the judge: the losses still count
        return {}
    return {
        "confidence": score.confidence,
        "offset_frames": float(score.offset_frames),
        "distance": score.distance,
    }


def _write_video(path: Path, frames: NDArray[np.uint8], clip: ManifestClip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    duration_s = len(frames) / VIDEO_FPS
    write_video(path, frames, speech=clip.path, encoding=Encoding(crf=16), duration_s=duration_s)


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw the curves of the training to `path` after each validation."""
    if "validation" in rows[-1]:
        draw_panels(rows, path)
