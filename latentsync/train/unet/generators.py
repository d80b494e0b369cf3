"""The networks that `train-unet` trains: built, given a start, and frozen in part."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.diffusion.view import channels_seen
from latentsync.errors import RecipeError
from latentsync.events import Note, Report
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.unet import LipUNet, UNetConfig
from latentsync.models.wav2lip import Wav2LipConfig, build_wav2lip
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.unet.start import choose_trainable, start_unet
from latentsync.weights.checkpoints import load_checkpoint

NetworkConfig = UNetConfig | Wav2LipConfig


class UNetInTraining(nn.Module):
    """A `LipUNet` whose state dict has its network under its own name, as checkpoints of a run want it."""

    def __init__(self, unet: LipUNet) -> None:
        super().__init__()
        self.network = unet.network
        if unet.adapter is not None:
            self.adapter = unet.adapter
        self._unet = (unet,)  # in a tuple: no second way to the same parameters

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        predicted: Tensor = self._unet[0](sample, timesteps, audio)
        return predicted


def network_config(recipe: UNetTrainingRecipe, *, latent_channels: int) -> UNetConfig:
    """The U-Net that the recipe describes, for an autoencoder with so many channels.

    Raises:
        RecipeError: its sizes do not fit together.
    """
    network = recipe.network
    try:
        return UNetConfig(
            block_out_channels=network.block_out_channels,
            cross_attention_dim=network.adapter_dim or network.audio_dim,
            adapter_dim=network.adapter_dim or None,
            attention_head_dim=network.attention_head_dim,
            layers_per_block=network.layers_per_block,
            motion=network.motion,
            in_channels=channels_seen(network.view, latent_channels),
            out_channels=latent_channels,
            norm_num_groups=network.norm_num_groups,
            motion_max_seq_length=network.motion_max_frames,
            attention_levels=network.attention_levels,
            motion_place=network.motion_place,
            norm_over=network.norm_over,
            audio_dim=network.audio_dim,
            view=network.view,
        )
    except ValueError as error:
        raise RecipeError(f"network: {error}", hint="change the table network") from error


def build_generator(
    recipe: UNetTrainingRecipe, vae: AnyAutoencoder | None, start: Path | None, report: Report
) -> tuple[nn.Module, NetworkConfig]:
    """The network to train, with what it begins with and only the wanted parameters trained.

    Raises:
        RecipeError: its sizes do not fit together, or a pattern of `trainable` matches nothing.
        WeightsError: the start is of another network.
    """
    torch.manual_seed(recipe.seed)  # model initialisation
    model: nn.Module
    config: NetworkConfig
    if recipe.generator == "unet" and vae is not None:
        config = network_config(recipe, latent_channels=vae.latent_channels)
        unet, begun = start_unet(config, start)
        for line in begun.lines() if start is not None else ():
            report(Note(line))
        if recipe.run.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        model = UNetInTraining(unet)
    else:
        config = wav2lip_config(recipe)
        model = build_wav2lip(config)
        if start is not None:
            begun_with = load_checkpoint(
                start, kind="wav2lip", config_type=Wav2LipConfig, build=build_wav2lip
            )
            model.load_state_dict(begun_with.state_dict())
    train_only(model, recipe.trainable)
    return model, config


def train_only(model: nn.Module, patterns: tuple[str, ...]) -> int:
    """Train what the recipe's `trainable` names; how many numbers that is.

    Raises:
        RecipeError: a pattern is found in no parameter's name.
    """
    try:
        return choose_trainable(model, patterns)
    except ValueError as error:
        raise RecipeError(f"trainable: {error}", hint="use parts of parameter names, or []") from error


def wav2lip_config(recipe: UNetTrainingRecipe) -> Wav2LipConfig:
    """The Wav2Lip generator that the recipe describes.

    Raises:
        RecipeError: its sizes do not fit together.
    """
    try:
        return Wav2LipConfig(**recipe.wav2lip.model_dump())
    except ValueError as error:
        raise RecipeError(f"wav2lip: {error}", hint="change wav2lip.resolution") from error
