"""How each kind of SyncNet is trained: its network, its samples, its losses, and how clips are compared."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.axes import expect_axes, to_pm1
from latentsync.errors import RecipeError
from latentsync.manifest import ManifestClip
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.framewise import FramewiseSyncNet, build_framewise
from latentsync.models.syncnet import MEL_BANDS, SyncNet, build_syncnet
from latentsync.rates import STATES_PER_FRAME, mel_columns
from latentsync.recipe.networks import FramewiseConfig, SyncNetConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.clips import (
    ClipWindows,
    DecodedCache,
    Decoder,
    FeatureFiles,
    Region,
    decode_clip,
    is_cached,
)
from latentsync.train.loop import Batch
from latentsync.train.losses import matrix_losses, sync_loss
from latentsync.train.syncnet.data import (
    ClipRuns,
    LipRegion,
    RunSamples,
    SyncSamples,
    check_length,
)

Pairs = deque[tuple[float, float]]  # what the network predicted for the last pairs, and their labels


class SyncNetInTraining(nn.Module):
    """The network and, for the contrastive loss, the temperature that is learnt beside it."""

    def __init__(self, network: SyncNet | FramewiseSyncNet, *, temperature: float | None) -> None:
        super().__init__()
        self.network = network
        # Learnt as a logarithm, so that it stays above zero.
        self.log_temperature = (
            None if temperature is None else nn.Parameter(torch.tensor([math.log(temperature)]))
        )

    def forward(self, frames: Tensor, speech: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of frames and of speech, as the network returns them, and the temperature."""
        visual, audio = self.network(frames, speech)
        if self.log_temperature is None:
            return visual, audio, torch.ones((), device=visual.device)
        temperature: Tensor = self.log_temperature.exp().clamp(0.005, 1.0)
        return visual, audio, temperature


class SyncNetObjective(Protocol):
    """What the training of a SyncNet needs to know about its kind.

    kind    that the weights files name
    config  that the network is built from
    """

    kind: str
    weights: dict[str, float]

    @property
    def config(self) -> SyncNetConfig | FramewiseConfig: ...

    def build(self) -> SyncNetInTraining:
        """The network, with random weights from torch's global generator."""

    def blank_batch(self, *, device: torch.device) -> Batch:
        """A micro-batch with nothing in it, for an estimate."""

    def check(self, clip: ManifestClip) -> None:
        """Refuse a clip that cannot be used, with MediaError or ValueError, and decode it if wanted."""

    def samples(self, clips: Sequence[ManifestClip]) -> Dataset[Any]:
        """The samples of a training on `clips`."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of samples, and the accuracy."""

    def compare(self, model: nn.Module, clip: ManifestClip) -> Tensor:
        """Cosines (n n), frames by speech, of windows one frame apart from the middle of a clip."""


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """The clips, the files computed from them, whether these include the decoded frames, and what decodes."""

    clips: Sequence[ManifestClip]
    features: FeatureFiles
    decoded_cache: DecodedCache
    decoder: Decoder = "pyav"


def choose_objective(
    recipe: SyncNetRecipe, files: ClipFiles, *, vae: AnyAutoencoder | None = None, pairs: Pairs | None = None
) -> SyncNetObjective:
    """The objective of the kind of SyncNet that the recipe names.

    Args:
        vae: encodes frames for a network that takes latents.
        pairs: takes the predictions, for a picture.
    """
    if recipe.syncnet == "framewise":
        return FramewiseObjective(recipe, files)
    return WindowedObjective(recipe, files, vae, pairs)


class WindowedObjective:
    """Of the paper's SyncNet, which takes all frames of a window at once, and mel."""

    kind = "syncnet"

    def __init__(
        self, recipe: SyncNetRecipe, files: ClipFiles, vae: AnyAutoencoder | None, pairs: Pairs | None
    ) -> None:
        self.recipe, self.vae, self.pairs = recipe, vae, pairs
        channels = 4 if vae is None else vae.latent_channels
        self.config = recipe.network.replaced(latent_channels=channels)
        self.weights: dict[str, float] = {recipe.loss.kind: 1.0}
        network = self.config
        region = Region(network.resolution, network.is_lower_half and network.space == "pixel")
        is_decoded = is_cached(files.decoded_cache, files.clips, region)
        self.source = ClipWindows(network.frames, region, files.features, is_decoded, files.decoder)

    def build(self) -> SyncNetInTraining:
        """See `SyncNetObjective`."""
        return _in_training(build_syncnet(self.config), self.recipe)

    def blank_batch(self, *, device: torch.device) -> Batch:
        """See `SyncNetObjective`."""
        negatives, samples = self.recipe.negatives, self.recipe.run.micro_batch_samples
        windows = negatives.windows_per_clip if negatives.pairing == "in_clip_matrix" else 1
        frames, region = self.config.frames, self.source.region
        pictures = (samples, windows, frames, region.rows, region.resolution, 3)
        return {
            "frames_u8": torch.zeros(pictures, dtype=torch.uint8, device=device),
            "mel": torch.zeros(samples, windows, MEL_BANDS, mel_columns(frames), device=device),
            "label": torch.zeros(samples, device=device),
            "starts": torch.zeros(samples, windows, dtype=torch.int64, device=device),
        }

    def check(self, clip: ManifestClip) -> None:
        """See `SyncNetObjective`."""
        starts = self.source.starts_in(clip)
        check_length(clip, starts, self.recipe.negatives, frames=self.source.frames)
        if self.source.is_decoded:
            decode_clip(clip, self.source.region, self.source.features)

    def samples(self, clips: Sequence[ManifestClip]) -> Dataset[Any]:
        """See `SyncNetObjective`."""
        return SyncSamples(self.recipe, clips, self.source)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of `SyncSamples`: `bce`, or `contrastive` with `chance`; `accuracy`."""
        windows = batch["starts"].shape[1]
        frames = self.network_input(batch["frames_u8"].flatten(0, 1))  # b·n f·c h w
        visual, audio, temperature = model(frames, batch["mel"].flatten(0, 1)[:, None])
        if self.recipe.negatives.pairing == "random_half":
            return self._losses_of_pairs((visual * audio).sum(1), batch["label"])
        cosines = visual.unflatten(0, (-1, windows)) @ audio.unflatten(0, (-1, windows)).mT  # b n n
        starts = batch["starts"]
        apart_frames = (starts[:, :, None] - starts[:, None]).abs()
        is_wrong = apart_frames >= self.recipe.negatives.min_distance_frames
        losses = matrix_losses(cosines, is_wrong, temperature=temperature)
        if self.recipe.loss.kind == "bce":
            losses = {"bce": losses["bce"]}  # `chance` is that of the contrastive loss
        else:
            losses = {name: losses[name] for name in ("contrastive", "chance", "bce")}
        if self.pairs is not None:
            _remember(self.pairs, cosines.diagonal(dim1=1, dim2=2), 1.0)
            # As many wrong pairs as right ones: a matrix has far more of them.
            _remember(self.pairs, cosines[is_wrong], 0.0, most=cosines.shape[0] * windows)
        return losses | {"accuracy": _accuracy(cosines, is_wrong)}

    def _losses_of_pairs(self, cosine: Tensor, label: Tensor) -> dict[str, Tensor]:
        if self.pairs is not None:
            for value in (0.0, 1.0):
                _remember(self.pairs, cosine[label == value], value)
        is_right = (cosine > 0.5) == (label > 0.5)
        return {"bce": sync_loss(cosine, label).mean(), "accuracy": is_right.float().mean()}

    def network_input(self, frames_u8: Tensor) -> Tensor:
        """Windows of frames (b f h w c), cut to the region, as the network takes them: (b f·c h w).

        With space = "latent" the VAE encodes the frames. The centre of the posterior is taken: ours, where
        the reference draws a sample.
        """
        expect_axes(frames_u8, "b f h w c", f=self.config.frames, c=3)
        images = to_pm1(frames_u8.permute(0, 1, 4, 2, 3))  # b f c h w
        if self.vae is None:
            return images.flatten(1, 2)  # b f·c h w
        with torch.no_grad():
            latents = self.vae.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # b f c h w
        stacked: Tensor = latents.flatten(1, 2)  # b f·c h w
        return stacked[:, :, stacked.shape[2] // 2 :] if self.config.is_lower_half else stacked

    def compare(self, model: nn.Module, clip: ManifestClip) -> Tensor:
        """See `SyncNetObjective`."""
        source, wanted = self.source, self.recipe.validation.windows_per_clip
        starts = source.starts_in(clip)
        count = min(wanted, starts)
        first = (starts - count) // 2
        frames_u8 = torch.from_numpy(
            source.frames_at(clip, first, frames=source.frames + count - 1)
        )  # f h w c
        windows = frames_u8.unfold(0, source.frames, 1).movedim(-1, 1)  # n f h w c
        mel = torch.stack([source.mel_at(clip, first + index) for index in range(count)])[:, None]  # n 1 d t
        device = next(model.parameters()).device
        # A short clip repeats its last window, so that every clip takes equally many calls of the model.
        indices = [min(index, count - 1) for index in range(wanted)]
        visual, audio = [], []
        for part in torch.tensor(indices).split(max(8, self.recipe.run.micro_batch_samples)):
            embedded = model(self.network_input(windows[part].to(device)), mel[part].to(device))
            visual.append(embedded[0].float().cpu())
            audio.append(embedded[1].float().cpu())
        return torch.cat(visual)[:count] @ torch.cat(audio)[:count].T


class FramewiseObjective:
    """Of the SyncNet that takes frames one by one, and Whisper states.

    In a run of frames, every window is compared with the speech of all others.
    """

    kind = "framewise_syncnet"

    def __init__(self, recipe: SyncNetRecipe, files: ClipFiles) -> None:
        self.recipe, self.config = recipe, recipe.framewise
        self.weights: dict[str, float] = {recipe.loss.kind: 1.0}
        region = LipRegion(self.config)
        is_decoded = is_cached(files.decoded_cache, files.clips, region)
        run_frames = recipe.negatives.run_frames
        self.source = ClipRuns(run_frames, region, files.features, is_decoded, files.decoder)

    def build(self) -> SyncNetInTraining:
        """See `SyncNetObjective`."""
        return _in_training(build_framewise(self.config), self.recipe)

    def blank_batch(self, *, device: torch.device) -> Batch:
        """See `SyncNetObjective`."""
        config, frames = self.config, self.source.run_frames
        samples = self.recipe.run.micro_batch_samples
        states = (samples, frames * STATES_PER_FRAME, config.whisper_states, config.whisper_dim)
        pictures = (samples, frames, config.rows, config.columns, 3)
        return {
            "frames_u8": torch.zeros(pictures, dtype=torch.uint8, device=device),
            "states": torch.zeros(states, device=device),
        }

    def check(self, clip: ManifestClip) -> None:
        """See `SyncNetObjective`."""
        self.source.starts_in(clip)
        if self.source.is_decoded:
            decode_clip(clip, self.source.region, self.source.features)

    def samples(self, clips: Sequence[ManifestClip]) -> Dataset[Any]:
        """See `SyncNetObjective`."""
        return RunSamples(self.recipe, clips, self.source)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of `RunSamples`: `contrastive`, `chance`; and `accuracy`."""
        visual, audio, temperature = model(self.network_input(batch["frames_u8"]), batch["states"])
        cosines = visual @ audio.mT  # b n n
        is_wrong = far_apart(cosines.shape[1], self.recipe.negatives.min_distance_frames)
        is_wrong = is_wrong.to(cosines.device).expand_as(cosines)
        losses = matrix_losses(cosines, is_wrong, temperature=temperature)
        right = cosines.diagonal(dim1=1, dim2=2)[:, :, None]
        accuracy = ((right > cosines) & is_wrong).sum() / is_wrong.sum()
        return {name: losses[name] for name in ("contrastive", "chance")} | {"accuracy": accuracy}

    def network_input(self, frames_u8: Tensor) -> Tensor:
        """Runs of frames (b f h w c) as the network takes them: (b c f h w) in -1..1."""
        expect_axes(frames_u8, "b f h w c", c=3)
        return to_pm1(frames_u8.permute(0, 4, 1, 2, 3))

    def compare(self, model: nn.Module, clip: ManifestClip) -> Tensor:
        """See `SyncNetObjective`."""
        source = self.source
        wanted = self.recipe.validation.windows_per_clip + self.config.frames - 1
        available = source.starts_in(clip) + source.run_frames - 1
        frames = max(source.run_frames, min(wanted, available))
        start = (available - frames) // 2
        device = next(model.parameters()).device
        pictures = torch.from_numpy(source.frames_at(clip, start, frames))[None]
        states = source.states_at(clip, start, frames)[None]
        visual, audio, _ = model(self.network_input(pictures.to(device)), states.to(device))
        cosines: Tensor = visual[0].float() @ audio[0].float().T
        return cosines.cpu()


def far_apart(windows: int, distance: int) -> Tensor:
    """(n n), true where frames and speech are at least `distance` windows apart.

    >>> far_apart(4, 3).sum().item()
    2
    """
    indices = torch.arange(windows)
    return (indices[:, None] - indices).abs() >= distance


def _in_training(network: SyncNet | FramewiseSyncNet, recipe: SyncNetRecipe) -> SyncNetInTraining:
    if recipe.run.gradient_checkpointing:
        if not isinstance(network, SyncNet):
            raise RecipeError(
                'syncnet = "framewise" cannot take run.gradient_checkpointing = true',
                hint="set it to false",
            )
        network.enable_gradient_checkpointing()
    temperature = recipe.loss.temperature if recipe.loss.kind == "contrastive" else None
    return SyncNetInTraining(network, temperature=temperature)


def _accuracy(cosines: Tensor, is_wrong: Tensor) -> Tensor:
    """How often the right speech is nearer than a wrong one of the same clip: chance is one half."""
    right = cosines.diagonal(dim1=1, dim2=2)[:, :, None]
    is_nearer = (right > cosines).float() + 0.5 * (right == cosines).float()
    return (is_nearer * is_wrong).sum() / is_wrong.sum().clamp(min=1)


def _remember(pairs: Pairs, cosines: Tensor, label: float, *, most: int | None = None) -> None:
    values = cosines.detach().flatten()[:most].float().cpu().tolist()
    pairs.extend((value, label) for value in values)
