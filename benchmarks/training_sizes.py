"""Random networks of the released sizes, and batches of noise: for `training.py --full-size`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.events import ignore
from latentsync.models.syncnet import build_syncnet
from latentsync.models.vae import build_vae
from latentsync.models.videomae import build_video_encoder
from latentsync.rates import mel_columns
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import SyncNetConfig, TowerConfig, VAEConfig, VideoEncoderConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import DTYPES
from latentsync.train.loop import Ending, TrainingRun, train
from latentsync.train.processes import explaining, make_accelerator
from latentsync.train.unet.frozen import FrozenNetworks
from latentsync.train.unet.objective import UNetObjective
from latentsync.train.unet.start import build_generator
from latentsync.weights.judges import RELEASED_SYNCNETS

PAPER_SYNCNET = load_recipe("syncnet", SyncNetRecipe).network

# What the authors say each configuration takes, for one sample at once.
PUBLISHED_GB = {"stage1": 23, "stage2": 30, "stage2-efficient": 20, "stage1-512": 30, "stage2-512": 55}
TOKENS = 50  # of each frame: 10 Whisper states of 5 layers
MEL_BANDS = 80
TINY = (
    "windows.resolution=64",
    "network.block_out_channels=[16, 32]",
    "network.attention_levels=[true, true]",
    "network.layers_per_block=1",
    "network.attention_head_dim=2",
    "network.norm_num_groups=4",
    "network.audio_dim=16",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the networks that are not trained."""

    vae: VAEConfig
    syncnet: SyncNetConfig
    temporal: VideoEncoderConfig


RELEASED_SIZES = Sizes(VAEConfig(), RELEASED_SYNCNETS["16_pixel_attn"], VideoEncoderConfig())
TINY_SIZES = Sizes(
    VAEConfig(block_out_channels=(8, 16), num_blocks=1, norm_num_groups=4),
    PAPER_SYNCNET.replaced(
        visual=TowerConfig(channels=(8, 8, 8), factors=((1, 2), 4, 4), attention=()),
        audio=TowerConfig(channels=(8, 8), factors=((5, 4), (16, 13)), attention=()),
        resolution=32,
        norm_groups=4,
    ),
    VideoEncoderConfig(width=16, depth=2, heads=2, hidden=32, classes=0, picture=28),
)


class NoiseSamples(Dataset[Any]):
    """What `LipSamples` gives, but pictures and speech are noise."""

    def __init__(self, recipe: UNetTrainingRecipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.run.samples

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        frames, side = self.recipe.windows.frames, self.recipe.windows.resolution
        drawn = torch.Generator().manual_seed(number)
        pictures = torch.randint(256, (2, frames, side, side, 3), dtype=torch.uint8, generator=drawn)
        return {
            "target_u8": pictures[0],
            "reference_u8": pictures[1],
            "mel": torch.randn(MEL_BANDS, mel_columns(frames), generator=drawn),
            "audio": torch.randn(frames, TOKENS, self.recipe.network.audio_dim, generator=drawn),
            "has_speech": torch.tensor(1.0),
            "number": torch.tensor(number),
        }


def make_frozen(
    recipe: UNetTrainingRecipe, sizes: Sizes, *, device: torch.device, dtype: torch.dtype
) -> FrozenNetworks:
    """The networks that the recipe's losses need, as `load_frozen` would set them up, with random weights."""
    loss, is_checkpointing = recipe.loss, recipe.run.gradient_checkpointing
    vae = build_vae(sizes.vae)
    syncnet = build_syncnet(sizes.syncnet) if loss.sync else None
    temporal = build_video_encoder(sizes.temporal) if loss.trepa else None
    for network in (vae, syncnet, temporal):
        if network is not None:
            network.eval().requires_grad_(False).to(device=device, dtype=dtype)
    if is_checkpointing:
        vae.network.enable_gradient_checkpointing()
        for judge in (syncnet, temporal):
            if judge is not None:
                judge.enable_gradient_checkpointing()
    perceptual = _random_lpips().to(device) if loss.perceptual else None
    return FrozenNetworks(vae=vae, syncnet=syncnet, perceptual=perceptual, temporal=temporal)


def train_full_size(
    recipe: UNetTrainingRecipe, device: torch.device, output: Path, *, is_tiny: bool
) -> Ending:
    """Train a random network on noise, by the same loop and losses as `latentsync train-unet`.

    Raises:
        MemoryShortage: it does not fit.
    """
    accelerator = make_accelerator(recipe.run, device)
    dtype = DTYPES["fp32" if device.type == "cpu" else recipe.run.precision]
    with explaining(recipe.run, lambda: "nothing was trained yet"):
        sizes = TINY_SIZES if is_tiny else RELEASED_SIZES
        frozen = make_frozen(recipe, sizes, device=accelerator.device, dtype=dtype)
        model, config = build_generator(recipe, frozen.vae, None, ignore)
        return train(
            TrainingRun(
                recipe=recipe,
                model=model,
                network="network",
                kind=recipe.generator,
                config=config,
                objective=UNetObjective(recipe, frozen),
                samples=NoiseSamples(recipe),
                data="noise",
                output=output,
                workers=1,
            ),
            accelerator,
            ignore,
        )


def _random_lpips() -> nn.Module:
    from latentsync.compat import make_torchvision_importable

    make_torchvision_importable()
    import lpips

    network: nn.Module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    return network.eval().requires_grad_(False)
