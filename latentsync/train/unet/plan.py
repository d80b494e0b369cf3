"""What training a lip generator would take, found out without loading a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.axes import frames_to_batch
from latentsync.diffusion.view import build_view
from latentsync.models.autoencoder import AnyAutoencoder, build_tiny_autoencoder
from latentsync.models.framewise import FramewiseSyncNet, build_framewise
from latentsync.models.syncnet import SyncNet, build_syncnet, stack_frames
from latentsync.models.unet import build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.models.videomae import VideoEncoder, build_video_encoder
from latentsync.models.wav2lip import MEL_BANDS, MEL_STEPS, build_wav2lip
from latentsync.recipe.networks import (
    FramewiseConfig,
    TinyAutoencoderConfig,
    UNetConfig,
    VAEConfig,
    VideoEncoderConfig,
    Wav2LipConfig,
)
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.estimate import Estimate, estimate, say_bytes, say_duration
from latentsync.train.unet.frozen import PACKAGED
from latentsync.train.unet.generators import train_only
from latentsync.weights.checkpoints import config_of, is_checkpoint, read_note
from latentsync.weights.judges import RELEASED_SYNCNETS
from latentsync.weights.models import BUNDLED

TRAINED_BYTES = 16  # per parameter in fp32: weight, gradient, two of AdamW
KEPT_BYTES = 4  # of a parameter of the generator that is not trained, and of one in the moving average
TOKENS = 50  # Whisper states that a frame hears


@dataclass(frozen=True, slots=True)
class Needs:
    """What one process needs. Memory and time are rough: within a factor of two, as a rule.

    frozen_parameters  of the VAE and of the networks of the losses, in the run's number format
    """

    parameters: int
    trained_parameters: int
    frozen_parameters: int
    state_bytes: int
    activation_bytes: int
    operations_per_sample: float
    samples_per_s: float
    total_s: float

    @property
    def memory_bytes(self) -> int:
        return self.state_bytes + self.activation_bytes

    def lines(self, recipe: UNetTrainingRecipe, device: torch.device) -> list[str]:
        """The numbers for people."""
        run = recipe.run
        return [
            f"parameters: {self.parameters / 1e6:.2f} million, {self.trained_parameters / 1e6:.2f} of them"
            f" trained; {self.frozen_parameters / 1e6:.2f} million more in networks that judge or decode",
            f"memory: about {say_bytes(self.memory_bytes)} on each {device.type} device:"
            f" {say_bytes(self.state_bytes)} for weights, gradients, optimizer and average,"
            f" {say_bytes(self.activation_bytes)} for {run.micro_batch_samples} samples at once",
            f"time: about {say_duration(self.total_s)} for {run.samples} samples ({self.samples_per_s:.3g} a"
            " second)",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON."""
        return {**asdict(self), "memory_bytes": self.memory_bytes}


def plan_needs(
    recipe: UNetTrainingRecipe, config: UNetConfig | Wav2LipConfig, *, device: torch.device, processes: int
) -> Needs:
    """Estimate memory and time from one sample that passes all networks without any numbers.

    The SyncNet (but for the packaged one) and the video encoder are taken to be the released ones, whatever
    the recipe says; LPIPS is left out.

    Raises:
        RecipeError: a pattern of `trainable` is found in no parameter's name.
    """
    with torch.device("meta"):
        whole = _Whole(recipe, config)
        trained = train_only(whole.generator, recipe.trainable)
    parameters = _count(whole.generator)
    frozen = _count(whole) - parameters
    found: Estimate = estimate(
        lambda: _Whole(recipe, config),
        whole.inputs,
        recipe.run,
        device=device,
        processes=processes,
    )
    is_half = recipe.run.precision != "fp32" and device.type != "cpu"
    share = processes if recipe.run.sharding == "fsdp" else 1
    averaged = trained if recipe.run.average_decay else 0
    state = (trained * TRAINED_BYTES + (parameters - trained + averaged) * KEPT_BYTES) // share
    return Needs(
        parameters=parameters,
        trained_parameters=trained,
        frozen_parameters=frozen,
        state_bytes=state + frozen * (2 if is_half else 4),
        activation_bytes=found.activation_bytes,
        operations_per_sample=found.operations_per_sample,
        samples_per_s=found.samples_per_s,
        total_s=found.total_s,
    )


class _Whole(nn.Module):
    """Everything that one sample passes: the generator, the decoder, and the networks of the losses."""

    def __init__(self, recipe: UNetTrainingRecipe, config: UNetConfig | Wav2LipConfig) -> None:
        super().__init__()
        self.recipe, self.config = recipe, config
        loss, is_checkpointing = recipe.loss, recipe.run.gradient_checkpointing
        self.vae: AnyAutoencoder | None = None
        if isinstance(config, UNetConfig):
            unet = build_unet(config)
            if is_checkpointing:
                unet.enable_gradient_checkpointing()
            self.generator: nn.Module = unet
            self.vae = _build_autoencoder(autoencoder_config(recipe))
        else:
            self.generator = build_wav2lip(config)
        name = "16_pixel_attn" if loss.sync_space == "pixel" else "16_latent"
        self.syncnet: SyncNet | FramewiseSyncNet | None = None
        if loss.sync:
            is_packaged = recipe.weights.syncnet == PACKAGED
            self.syncnet = _bundled_syncnet() if is_packaged else build_syncnet(RELEASED_SYNCNETS[name])
        self.temporal: VideoEncoder | FramewiseSyncNet | None = None
        if loss.trepa:
            is_packaged = recipe.weights.temporal == PACKAGED
            self.temporal = _bundled_syncnet() if is_packaged else build_video_encoder(VideoEncoderConfig())
        for network in (self.vae, self.syncnet, self.temporal):
            if network is not None:
                network.requires_grad_(False)
        if is_checkpointing:
            self._checkpoint()

    def inputs(self) -> tuple[Tensor, ...]:
        """One sample for the generator."""
        frames = self.recipe.windows.frames
        if isinstance(self.config, Wav2LipConfig):
            video = torch.zeros(1, 3, frames, self.config.resolution, self.config.resolution)
            return video, video, torch.zeros(1, frames, MEL_BANDS, MEL_STEPS)
        faces = torch.zeros(2 * (self.recipe.windows.resolution,), device="cpu")
        factor = 8 if self.vae is None else self.vae.factor
        side = len(build_view(self.config.view, faces, factor=factor).small(faces))
        sample = torch.zeros(1, self.config.in_channels, frames, side, side)
        audio = torch.zeros(frames, TOKENS, self.config.audio_dim)
        return sample, torch.zeros(1, dtype=torch.long), audio

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.generator(*inputs)
        total = made.mean()
        if self.recipe.loss.sync_space == "latent":
            total = total + self._see(made).mean()
        if self.vae is not None and self.recipe.loss.is_decoded:
            made = self.vae.decode(frames_to_batch(made))
            total = total + made.mean()
        if self.recipe.loss.sync_space == "pixel":
            total = total + self._see(made).mean()
        if isinstance(self.temporal, FramewiseSyncNet):
            total = total + self.temporal.look(_region_of(self.temporal, made)).mean()
        elif self.temporal is not None:
            picture = self.temporal.config.picture
            video = made.new_zeros(1, 3, self.temporal.config.frames, picture, picture) + made.mean()
            total = total + self.temporal.features(video).mean()
        return total

    def _see(self, made: Tensor) -> Tensor:
        """What the SyncNet makes of a window of its own size, which hangs on all that was made."""
        if self.syncnet is None:
            return made.mean()
        if isinstance(self.syncnet, FramewiseSyncNet):
            return self.syncnet.embed_frames(_region_of(self.syncnet, made))
        own = self.syncnet.config
        side, channels = (own.resolution, 3) if own.space == "pixel" else (own.resolution // 8, 4)
        video = made.new_zeros(1, channels, own.frames, side, side) + made.mean()
        return self.syncnet.embed_frames(stack_frames(video, own))

    def _checkpoint(self) -> None:
        if isinstance(self.vae, FaceVAE):
            self.vae.network.enable_gradient_checkpointing()
        if isinstance(self.syncnet, SyncNet):
            self.syncnet.enable_gradient_checkpointing()
        if isinstance(self.temporal, VideoEncoder):
            self.temporal.enable_gradient_checkpointing()


def _region_of(syncnet: FramewiseSyncNet, made: Tensor) -> Tensor:
    """A window (b c f h w) of the size that it sees, which hangs on all that was made."""
    seen = syncnet.config
    return made.new_zeros(1, 3, seen.frames, seen.rows, seen.columns) + made.mean()


def planned_config(recipe: UNetTrainingRecipe) -> UNetConfig | Wav2LipConfig:
    """The network that the recipe would train."""
    if recipe.generator == "wav2lip":
        return recipe.wav2lip
    return recipe.network.replaced(latent_channels=autoencoder_config(recipe).latent_channels)


def autoencoder_config(recipe: UNetTrainingRecipe) -> VAEConfig | TinyAutoencoderConfig:
    """The sizes of the autoencoder that the recipe names: as its file says, or Stable Diffusion's."""
    name = recipe.weights.vae
    path = BUNDLED / "vae.safetensors" if name == PACKAGED else Path(name)
    if not path.is_file() or not is_checkpoint(path):
        return VAEConfig()
    note = read_note(path)
    if note.kind == "autoencoder":
        return config_of(note, TinyAutoencoderConfig)
    return config_of(note, VAEConfig)


def _build_autoencoder(config: VAEConfig | TinyAutoencoderConfig) -> AnyAutoencoder:
    return build_vae(config) if isinstance(config, VAEConfig) else build_tiny_autoencoder(config)


def _bundled_syncnet() -> FramewiseSyncNet:
    note = read_note(BUNDLED / "syncnet.safetensors")
    return build_framewise(config_of(note, FramewiseConfig))


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
