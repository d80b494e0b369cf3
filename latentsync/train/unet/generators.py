"""The networks that `train-unet` trains: built, given a start, and frozen in part."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.errors import RecipeError
from latentsync.events import Note, Report
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.unet import LipUNet
from latentsync.models.wav2lip import build_wav2lip
from latentsync.recipe.networks import UNetConfig, Wav2LipConfig
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


def build_generator(
    recipe: UNetTrainingRecipe, vae: AnyAutoencoder | None, start: Path | None, report: Report
) -> tuple[nn.Module, NetworkConfig]:
    """The network to train, with what it begins with and only the wanted parameters trained.

    Raises:
        RecipeError: a pattern of `trainable` matches nothing.
        WeightsError: the start is of another network.
    """
    torch.manual_seed(recipe.seed)  # model initialisation
    model: nn.Module
    config: NetworkConfig
    if recipe.generator == "unet" and vae is not None:
        config = recipe.network.replaced(latent_channels=vae.latent_channels)
        unet, begun = start_unet(config, start)
        for line in begun.lines() if start is not None else ():
            report(Note(line))
        if recipe.run.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        model = UNetInTraining(unet)
    else:
        config = recipe.wav2lip
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
