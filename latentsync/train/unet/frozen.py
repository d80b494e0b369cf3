"""The networks that are not trained: found before anything is read, loaded once, without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from latentsync.audio.whisper import WhisperEncoder
from latentsync.errors import RecipeError, WeightsError
from latentsync.metrics.networks import load_lpips
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.models.syncnet import SyncNet
from latentsync.models.vae import FaceVAE
from latentsync.models.videomae import VideoEncoder, build_video_encoder
from latentsync.recipe.networks import SyncNetConfig, VideoEncoderConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.weights.catalog import load_catalog
from latentsync.weights.checkpoints import is_checkpoint, load_checkpoint, read_note
from latentsync.weights.hub import is_present, need
from latentsync.weights.judges import load_syncnet, videomae_from_released
from latentsync.weights.models import BUNDLED, load_autoencoder
from latentsync.weights.released import load_whisper

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGED, SCRATCH, LPIPS = "compact", "scratch", "vgg-lpips"
PACKAGED_FILES = {
    "start": "unet.safetensors",
    "vae": "vae.safetensors",
    "whisper": "whisper-tiny-en.safetensors",
    "syncnet": "syncnet.safetensors",
    "temporal": "syncnet.safetensors",
}
HOW_TO_MAKE = {
    "start": "train stage 1 first with 'latentsync train-unet --recipe stage1'",
    "syncnet": "train one first with 'latentsync train-syncnet'",
}


@dataclass(frozen=True, slots=True)
class FrozenNetworks:
    """In eval mode, without gradients; None where the recipe has no use for one."""

    vae: AnyAutoencoder | None
    syncnet: SyncNet | FramewiseSyncNet | None
    perceptual: nn.Module | None
    temporal: VideoEncoder | FramewiseSyncNet | None


def wanted_weights(recipe: UNetTrainingRecipe) -> dict[str, str]:
    """Which weights a recipe needs, by what they are for. A loss without weight needs none."""
    weights, loss = recipe.weights, recipe.loss
    wanted = {"start": weights.start}
    if recipe.generator == "unet":
        wanted |= {"vae": weights.vae, "whisper": weights.whisper}
    if loss.sync:
        wanted["syncnet"] = weights.syncnet
    if loss.perceptual:
        wanted["perceptual"] = LPIPS
    if loss.trepa:
        wanted["temporal"] = weights.temporal
    return {use: name for use, name in wanted.items() if name != SCRATCH}


def find_weights(recipe: UNetTrainingRecipe) -> dict[str, Path]:
    """The files of `wanted_weights`.

    Raises:
        WeightsError: some are missing; all of them are named, with the command that gets them.
    """
    wanted = wanted_weights(recipe)
    catalog = load_catalog()
    missing = sorted({name for name in wanted.values() if name in catalog and not is_present(catalog[name])})
    if missing:
        uses = ", ".join(f"{name} ({_use_of(name, wanted)})" for name in missing)
        raise WeightsError(
            f"weights are missing: {uses}", hint=f"run 'latentsync models pull {' '.join(missing)}'"
        )
    return {use: _find(use, name, is_known=name in catalog) for use, name in wanted.items()}


def load_frozen(
    recipe: UNetTrainingRecipe, files: Mapping[str, Path], *, device: torch.device, dtype: torch.dtype
) -> FrozenNetworks:
    """Load what the losses need. LPIPS stays in fp32, as in the reference.

    Raises:
        WeightsError: a file is damaged or of another network.
        RecipeError: the SyncNet or the video encoder sees other windows than the recipe cuts.
    """
    frozen = FrozenNetworks(
        vae=_channels_last(load_autoencoder(files["vae"], device=device, dtype=dtype))
        if "vae" in files
        else None,
        syncnet=load_syncnet(files["syncnet"], device=device, dtype=dtype) if "syncnet" in files else None,
        perceptual=load_lpips(files["perceptual"], device=device) if "perceptual" in files else None,
        temporal=load_temporal(files["temporal"], device=device, dtype=dtype)
        if "temporal" in files
        else None,
    )
    for network in (frozen.vae, frozen.syncnet, frozen.perceptual, frozen.temporal):
        if network is not None:
            network.eval().requires_grad_(False)
    _check_fit(recipe, frozen)
    if recipe.run.gradient_checkpointing:
        _checkpoint_gradients(frozen)
    return frozen


def _channels_last(vae: AnyAutoencoder) -> AnyAutoencoder:
    """In the order of memory that convolutions are faster in: a third of the time of encoding on a CPU."""
    laid_out: AnyAutoencoder = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def load_temporal(path: Path, *, device: torch.device, dtype: torch.dtype) -> VideoEncoder | FramewiseSyncNet:
    """Load a video encoder, ours or a released VideoMAE-v2 of any size, or a framewise SyncNet.

    The file decides which.
    """
    if not is_checkpoint(path):
        return videomae_from_released(path, device=device, dtype=dtype)
    if read_note(path).kind != "temporal":
        network = load_syncnet(path, device=device, dtype=dtype)
        if isinstance(network, FramewiseSyncNet):
            return network
    return load_checkpoint(
        path,
        kind="temporal",
        config_type=VideoEncoderConfig,
        build=build_video_encoder,
        device=device,
        dtype=dtype,
    )


def load_whisper_encoder(files: Mapping[str, Path], *, device: torch.device) -> WhisperEncoder | None:
    """Load the Whisper that clips are heard with, in fp32; None where nothing hears with it."""
    return load_whisper(files["whisper"], device=device, dtype=torch.float32) if "whisper" in files else None


def _use_of(name: str, wanted: Mapping[str, str]) -> str:
    return " and ".join(use for use, other in wanted.items() if other == name)


def _find(use: str, name: str, *, is_known: bool) -> Path:
    if name == PACKAGED and use in PACKAGED_FILES:
        return BUNDLED / PACKAGED_FILES[use]
    if is_known:
        return need(name)
    if not Path(name).exists():
        key = "weights" if use != "perceptual" else "loss"
        raise WeightsError(
            f"{key}.{use} = '{name}': neither a name of 'latentsync models list' nor a file that is there",
            hint=f"{HOW_TO_MAKE.get(use, 'check the path')}, or give another with --set weights.{use}=PATH",
        )
    return Path(name)


def _check_fit(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> None:
    frames, space = recipe.windows.frames, recipe.loss.sync_space
    if frozen.syncnet is not None:
        config = frozen.syncnet.config
        found = config.space if isinstance(config, SyncNetConfig) else "pixel"
        if isinstance(frozen.syncnet, FramewiseSyncNet) and recipe.weights.whisper != PACKAGED:
            raise RecipeError(
                f"weights.syncnet hears the packaged Whisper, and weights.whisper ="
                f" '{recipe.weights.whisper}'",
                hint="use a SyncNet that hears mel, or weights.whisper=compact with generator=unet",
            )
        if config.frames != frames:
            raise RecipeError(
                f"weights.syncnet sees windows of {config.frames} frames, and windows.frames = {frames}",
                hint=f"use windows.frames={config.frames} or another SyncNet",
            )
        if found != space:
            raise RecipeError(
                f"weights.syncnet sees {found} space, and loss.sync_space = '{space}'",
                hint=f"train one with 'latentsync train-syncnet --set network.space={space}', or change"
                " loss.sync_space",
            )
    if frozen.temporal is not None and frozen.temporal.config.frames != frames:
        raise RecipeError(
            f"weights.temporal sees windows of {frozen.temporal.config.frames} frames, and windows.frames ="
            f" {frames}",
            hint="change windows.frames, or set loss.trepa=0",
        )
    if frozen.vae is not None and recipe.windows.resolution % frozen.vae.factor:
        raise RecipeError(
            f"windows.resolution = {recipe.windows.resolution} is no multiple of the {frozen.vae.factor} px"
            " of a latent",
            hint=f"use a multiple of {frozen.vae.factor}",
        )


def _checkpoint_gradients(frozen: FrozenNetworks) -> None:
    if isinstance(frozen.vae, FaceVAE):
        frozen.vae.network.enable_gradient_checkpointing()
    if isinstance(frozen.syncnet, SyncNet) and frozen.syncnet.config.kind != "wav2lip":
        frozen.syncnet.enable_gradient_checkpointing()
    if isinstance(frozen.temporal, VideoEncoder):
        frozen.temporal.enable_gradient_checkpointing()
