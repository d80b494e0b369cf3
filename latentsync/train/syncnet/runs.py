"""Training of a framewise SyncNet: in a run of frames, every window is compared with every other's speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.axes import expect_axes
from latentsync.manifest import ManifestClip
from latentsync.models.framewise import cut_region
from latentsync.recipe.networks import FramewiseConfig
from latentsync.recipe.train_syncnet import SpeechAugmentation, SyncNetRecipe
from latentsync.train.augment import change_pictures
from latentsync.train.batches import Batch
from latentsync.train.clips import Features, Sample, TooShort, draw_sample
from latentsync.train.losses import matrix_losses
from latentsync.train.pictures import read_pictures

STATES_PER_FRAME = 2  # Whisper gives 50 states a second, a clip has 25 frames


@dataclass(frozen=True, slots=True)
class LipRegion:
    """The part of an aligned crop that a framewise SyncNet sees, at its size."""

    config: FramewiseConfig

    @property
    def frame_bytes(self) -> int:
        return self.config.rows * self.config.columns * 3

    @property
    def kind(self) -> str:
        """The name under which decoded clips are kept."""
        shares = "-".join(f"{share:g}" for share in self.config.region_unit)
        return f"decoded-{self.config.rows}x{self.config.columns}-of-{shares}.npy"

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the region from one crop (h w c) and shrink it."""
        region = cut_region(torch.from_numpy(frame_u8).permute(2, 0, 1)[None], self.config)[0]
        return region.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@dataclass(frozen=True, slots=True)
class ClipRuns:
    """Where runs of clips come from: `run_frames` frames in a row, and what is heard with them."""

    run_frames: int
    region: LipRegion
    features: Features
    is_decoded: bool

    def starts_in(self, clip: ManifestClip) -> int:
        """How many first frames a run can have.

        Raises:
            TooShort: the clip has fewer frames than a run.
        """
        heard = len(self.features.whisper(clip)) // STATES_PER_FRAME
        starts = min(clip.frames, heard) - self.run_frames + 1
        if starts < 1:
            raise TooShort(f"{min(clip.frames, heard)} frames with sound, {self.run_frames} are needed")
        return starts

    def frames_at(self, clip: ManifestClip, start: int, frames: int) -> NDArray[np.uint8]:
        """(f h w c), cut to the region."""
        return read_pictures(clip, start, frames, self.region, self.features if self.is_decoded else None)

    def states_at(self, clip: ManifestClip, start: int, frames: int) -> Tensor:
        """Whisper states (t n d) float32 of so many frames."""
        span = slice(start * STATES_PER_FRAME, (start + frames) * STATES_PER_FRAME)
        return self.features.whisper(clip)[span].float()


class RunSamples(Dataset[Sample]):
    """Sample k of a training is a pure function of the recipe's seed, the clips and k.

    frames_u8  (f h w c)
    states     (t n d)  Whisper states, two a frame
    """

    def __init__(self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], source: ClipRuns) -> None:
        self.recipe, self.clips, self.source = recipe, tuple(clips), source

    def __len__(self) -> int:
        return self.recipe.run.samples

    def __getitem__(self, number: int) -> Sample:
        return draw_sample(number, self.clips, self._draw, stream="runs", seed=self.recipe.seed)

    def _draw(self, clip: ManifestClip, random: np.random.Generator) -> Sample:
        source, frames = self.source, self.source.run_frames
        start = int(random.integers(source.starts_in(clip)))
        pictures = change_pictures(source.frames_at(clip, start, frames), self.recipe.pictures, random)
        states = augment_states(source.states_at(clip, start, frames), self.recipe.speech, random)
        return {"frames_u8": torch.from_numpy(pictures), "states": states}


def augment_states(states: Tensor, how: SpeechAugmentation, random: np.random.Generator) -> Tensor:
    """Change Whisper states (t n d): noise as a share of their spread, and up to `time_mask` steps unheard.

    Source: ours; the reference changes nothing.
    """
    expect_axes(states, "t n d")
    if how.noise:
        noise = torch.from_numpy(random.standard_normal(states.shape, np.float32))
        states = states + how.noise * states.std() * noise
    if how.time_mask:
        length = int(random.integers(how.time_mask + 1))
        first = int(random.integers(len(states) - length + 1))
        states = states.clone()
        states[first : first + length] = 0
    return states


def make_run_step(recipe: SyncNetRecipe) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """The losses of a micro-batch of `RunSamples`."""

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        seen, heard, temperature = model(as_network_input(batch["frames_u8"]), batch["states"])
        cosines = seen @ heard.mT  # b n n
        is_wrong = wrong_places(cosines.shape[1], recipe.negatives.min_distance_frames)
        is_wrong = is_wrong.to(cosines.device).expand_as(cosines)
        losses = matrix_losses(cosines, is_wrong, temperature=temperature)
        right = cosines.diagonal(dim1=1, dim2=2)[:, :, None]
        accuracy = ((right > cosines) & is_wrong).sum() / is_wrong.sum()
        return {name: losses[name] for name in ("contrastive", "chance")} | {"accuracy": accuracy}

    return step


def as_network_input(frames_u8: Tensor) -> Tensor:
    """Runs of frames (b f h w c) as the network takes them: (b c f h w), -1..1."""
    expect_axes(frames_u8, "b f h w c", c=3)
    return frames_u8.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def wrong_places(windows: int, distance: int) -> Tensor:
    """(n n), true where frames and speech are at least `distance` windows apart.

    >>> wrong_places(4, 3).sum().item()
    2
    """
    places = torch.arange(windows)
    return (places[:, None] - places).abs() >= distance


def compare_run(model: nn.Module, clip: ManifestClip, source: ClipRuns, *, frames: int) -> Tensor:
    """Cosines (n n) of the windows in the middle `frames` frames of a clip, frames by speech."""
    everything = source.starts_in(clip) + source.run_frames - 1
    length = max(source.run_frames, min(frames, everything))
    start = (everything - length) // 2
    device = next(model.parameters()).device
    pictures = torch.from_numpy(source.frames_at(clip, start, length))[None]
    states = source.states_at(clip, start, length)[None]
    seen, heard, _ = model(as_network_input(pictures.to(device)), states.to(device))
    cosines: Tensor = seen[0].float() @ heard[0].float().T
    return cosines.cpu()
