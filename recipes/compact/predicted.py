"""Windows of clips with the latents that a U-Net predicts for them, computed once and kept."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from latentsync.axes import frames_to_batch
from latentsync.diffusion.noise import shared_noise
from latentsync.diffusion.sampling import build_scheduler, denoise
from latentsync.diffusion.view import build_view, condition
from latentsync.events import Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.files import whole_or_nothing
from latentsync.manifest import ManifestClip
from latentsync.recipe.schema import Count, Table
from latentsync.recipe.training import PictureAugmentation
from latentsync.runtime import Seeds
from latentsync.train.augment import change_pictures
from latentsync.train.clips import Region, random_of_sample, read_pictures
from latentsync.train.syncnet.data import wrong_start
from latentsync.train.unet.data import AudioFeatures
from latentsync.weights.models import LipModel


class WindowsTable(Table):
    """Which frames the U-Net predicts, once, to be decoded again and again.

    frames                that follow each other in a window
    per_person            most windows of one person, so that nobody with many clips outweighs the others
    reference_gap_frames  least distance of the reference frames
    """

    frames: Annotated[int, Field(ge=2)]
    per_person: Count
    reference_gap_frames: Count


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """The first frame of a window in its clip, and the first of its reference frames."""

    clip: ManifestClip
    start: int
    reference_start: int

    @property
    def name(self) -> str:
        """The name of the window's file, from the content of the clip."""
        return f"{str(self.clip.sha256)[:16]}-{self.start}-{self.reference_start}"


@dataclass(frozen=True, slots=True)
class PredictedWindow:
    """One window, ready to be decoded.

    crops_u8   (f h w c)  the real frames
    true       (f c h w)  float16, scaled: the latents of the real frames
    predicted  (f c h w)  float16, scaled: what the U-Net predicts from speech, masked and reference frames
    """

    crops_u8: NDArray[np.uint8]
    true: NDArray[np.float16]
    predicted: NDArray[np.float16]


def plan_windows(clips: Sequence[ManifestClip], table: WindowsTable, *, seed: int) -> list[PlannedWindow]:
    """Choose the same number of windows of each person, where the person has enough clips.

    The windows of a person have at most twice as many frames as the clips; clips too short for a reference
    are left out.
    """
    long_enough = [clip for clip in clips if _starts_in(clip, table) >= 2 * table.reference_gap_frames]
    people: dict[str, list[ManifestClip]] = defaultdict(list)
    for clip in long_enough:
        people[clip.person or clip.source].append(clip)
    planned = []
    for person, owned in sorted(people.items()):
        random = random_of_sample(0, f"windows/{person}", seed=seed)
        order = random.permutation(len(owned))
        frames = sum(clip.frames for clip in owned)
        for number in range(min(table.per_person, 2 * frames // table.frames)):
            clip = owned[order[number % len(owned)]]
            starts = _starts_in(clip, table)
            start = int(random.integers(starts))
            other = wrong_start(start, starts, distance=table.reference_gap_frames, random=random)
            planned.append(PlannedWindow(clip, start, other))
    return planned


def _starts_in(clip: ManifestClip, table: WindowsTable) -> int:
    return clip.frames - table.frames + 1


class Predictor:
    """Predicts windows as `sync` does, but with other frames as reference: it must not see the target."""

    def __init__(
        self, model: LipModel, audio: AudioFeatures, *, frames: int, pictures: PictureAugmentation, seed: int
    ) -> None:
        spec = model.spec
        self.model, self.audio = model, audio
        self.frames, self.pictures, self.seed = frames, pictures, seed
        self.region = Region(spec.resolution, is_lower_half=False)
        mask = mouth_mask(spec.resolution)
        self.view = build_view(spec.view, torch.from_numpy(mask), factor=model.vae.factor)
        self.scheduler = build_scheduler(spec.prediction_type, spec.timestep_spacing)

    def fingerprint(self) -> str:
        """A short name for the networks and settings that predict."""
        digest = hashlib.sha256()
        for network in (self.model.unet, self.model.vae):
            for tensor in network.state_dict().values():
                digest.update(tensor.contiguous().numpy().tobytes())
        digest.update(f"{self.seed} {self.frames} {self.pictures!r}".encode())
        return digest.hexdigest()[:8]

    @torch.inference_mode()
    def predict(self, planned: PlannedWindow) -> PredictedWindow:
        """Predict one window, mirrored and recoloured as the recipe says.

        Raises:
            MediaError: the clip cannot be read.
        """
        model, frames = self.model, self.frames
        random = random_of_sample(0, planned.name, seed=self.seed)
        both = [
            read_pictures(planned.clip, start, frames, self.region, None)
            for start in (planned.start, planned.reference_start)
        ]
        changed_u8 = change_pictures(np.concatenate(both), self.pictures, random)
        images = torch.from_numpy(changed_u8).permute(0, 3, 1, 2) / 127.5 - 1  # f c h w
        target, reference = images.split(frames)
        true = model.vae.encode(self.view.cut(target))
        side = true.shape[-1]
        generator = Seeds(self.seed).generator(f"noise/{planned.name}")
        audio = self.audio.tokens(planned.clip, range(planned.start, planned.start + frames))  # f n d
        warp = model.unet.warp_for(audio, model.spec.guidance)
        predicted = denoise(
            model.unet,
            self.scheduler,
            shared_noise((1, model.vae.latent_channels, frames, side, side), generator),
            condition(self.view, target, reference, model.vae.encode, warp=warp),
            audio,
            steps=model.spec.steps,
            guidance=model.spec.guidance,
        )
        return PredictedWindow(
            changed_u8[:frames], true.half().numpy(), frames_to_batch(predicted).half().numpy()
        )


def predict_windows(
    planned: Sequence[PlannedWindow], predictor: Predictor, output: Path, report: Report
) -> list[Path]:
    """Predict every window that has no file yet into a folder in `output`, and return all files.

    The folder's name depends on everything that changes what a window holds, so nothing stale is ever read.
    """
    folder = output / f"windows-{predictor.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{window.name}.npz" for window in planned]
    for done, (window, path) in enumerate(zip(planned, paths, strict=True), 1):
        if not path.exists():
            made = predictor.predict(window)
            with whole_or_nothing(path) as part, part.open("wb") as file:
                np.savez(file, crops_u8=made.crops_u8, true=made.true, predicted=made.predicted)
        report(Progress("predicting", done, len(planned), "windows"))
    return sorted(set(paths))


def load_window(path: Path) -> PredictedWindow:
    """Read one window."""
    with np.load(path) as arrays:
        return PredictedWindow(arrays["crops_u8"], arrays["true"], arrays["predicted"])
