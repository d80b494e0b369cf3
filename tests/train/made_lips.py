"""Tiny networks in files, and a recipe that trains a U-Net of a few thousand parameters with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.audio.whisper import WhisperEncoder
from latentsync.models.syncnet import build_syncnet
from latentsync.models.vae import build_vae
from latentsync.models.videomae import build_video_encoder
from latentsync.recipe.networks import (
    TowerConfig,
    VAEConfig,
    VideoEncoderConfig,
    Wav2LipConfig,
    WhisperDims,
)
from latentsync.recipe.train_unet import (
    LossWeights,
    UNetTrainingRecipe,
)
from latentsync.weights.checkpoints import save_checkpoint
from tests.networks import PAPER_SYNCNET, STAGE2_RECIPE
from tests.train.made_clips import write_clip, write_clips

FRAMES = 5
VAE = VAEConfig(block_out_channels=(8, 16), num_blocks=1, norm_num_groups=4)
SYNCNET = PAPER_SYNCNET.replaced(
    visual=TowerConfig(channels=(8, 8, 8), factors=((1, 2), 4, 4), attention=()),
    audio=TowerConfig(channels=(8, 8), factors=((5, 4), (16, 4)), attention=()),
    frames=FRAMES,
    resolution=32,
    norm_groups=4,
)
TEMPORAL = VideoEncoderConfig(
    width=16, depth=2, heads=2, hidden=32, classes=0, picture=28, patch=14, frames=FRAMES, tubelet=1
)
STAGE1, STAGE2 = STAGE2_RECIPE.loss.replaced(sync=0, perceptual=0, trepa=0), STAGE2_RECIPE.loss


class StandInLpips(nn.Module):
    """Compares pictures through one convolution, as LPIPS does through thirteen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.layer(first) - self.layer(second)).square().mean((1, 2, 3), keepdim=True)


def write_networks(folder: Path, *, whisper_layers: int = 1) -> Path:
    """The files vae, syncnet, temporal and whisper (.safetensors), with random weights."""
    torch.manual_seed(5)
    for kind, config, build in (
        ("vae", VAE, build_vae),
        ("syncnet", SYNCNET, build_syncnet),
        ("temporal", TEMPORAL, build_video_encoder),
    ):
        make: Any = build
        save_checkpoint(folder / f"{kind}.safetensors", make(config).state_dict(), kind=kind, config=config)
    dims = WhisperDims(
        n_mels=80, n_audio_ctx=1500, n_audio_state=16, n_audio_head=2, n_audio_layer=whisper_layers
    )
    encoder = WhisperEncoder(dims).transformer.state_dict()
    config = {name: getattr(dims, name) for name in WhisperDims.model_fields}
    note = {"format": "latentsync-1", "kind": "whisper", "config": json.dumps(config), "facts": "{}"}
    save_file(encoder, folder / "whisper.safetensors", note)
    return folder


def lip_recipe(
    networks: Path, *, loss: LossWeights = STAGE1, start: str = "scratch", **changes: Any
) -> UNetTrainingRecipe:
    """A U-Net with motion that makes five frames of 32 px."""
    given = {
        "seed": 3,
        "held_out": ("person_1*",),
        "trainable": (),
        "windows": STAGE2_RECIPE.windows.replaced(frames=FRAMES, resolution=32),
        "weights": STAGE2_RECIPE.weights.replaced(
            start=start,
            **{
                name: str(networks / f"{name}.safetensors")
                for name in ("vae", "whisper", "syncnet", "temporal")
            },
        ),
        "network": STAGE2_RECIPE.network.replaced(
            block_out_channels=(16, 32),
            attention_levels=(True, True),
            layers_per_block=1,
            attention_head_dim=2,
            norm_num_groups=4,
            audio_dim=16,
        ),
        "wav2lip": Wav2LipConfig(resolution=32, first_channels=4, most_channels=32),
        "loss": loss,
        "optimizer": STAGE2_RECIPE.optimizer.replaced(learning_rate=2e-3),
        "run": STAGE2_RECIPE.run.replaced(
            samples=16,
            batch_samples=4,
            micro_batch_samples=2,
            precision="fp32",
            average_decay=0.5,
            log_every_samples=4,
            save_every_samples=8,
            gradient_checkpointing=True,
        ),
        "validation": STAGE2_RECIPE.validation.replaced(every_samples=8, clips=1, windows=2, steps=2),
    }
    return STAGE2_RECIPE.replaced(**given | changes)


def write_lips(folder: Path) -> Path:
    """Two clips to train on, person_00 and person_01, and one to validate on, person_10."""
    write_clips(folder, count=2)
    write_clip(folder / "person_10.mp4", 10)
    return folder
