"""Reads TAEF2, the pretrained tiny autoencoder that teaches ours; its files are not part of this project.

Source: facts of the architecture as its authors state them, the repository madebyollin/taesd (MIT). A block
is three 3x3 convolutions around a shortcut, then ReLU; at the smallest level a normalised pair of 1x1
convolutions comes first.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]
# Positions in the file; a convolution stands before each level.
ENCODER_BLOCKS = ((1,), (3, 4, 5), (7, 8, 9), (11, 12, 13))
DECODER_BLOCKS = ((3, 4, 5), (8, 9, 10), (13, 14, 15), (18,))
POOL_GROUPS = 4


class Teacher:
    """Pictures in -1..1 to latents (n 32 h/8 w/8) and back, and what its decoder's levels end with."""

    def __init__(self, folder: Path) -> None:
        self.encoder = _read(folder / "taef2_encoder.pth")
        self.decoder = _read(folder / "taef2_decoder.pth")

    @torch.no_grad()
    def encode(self, images_pm1: Tensor) -> Tensor:
        """Pictures (n 3 h w) to latents (n 32 h/8 w/8)."""
        hidden = (images_pm1 + 1) / 2
        for number, blocks in enumerate(ENCODER_BLOCKS):
            hidden = _conv(self.encoder, f"{blocks[0] - 1}", hidden, stride=2 if number else 1)
            for block in blocks:
                hidden = _block(self.encoder, f"{block}", hidden)
        return _conv(self.encoder, "14", hidden)

    @torch.no_grad()
    def features(self, latents: Tensor, levels: int = 3) -> list[Tensor]:
        """What the first `levels` levels of the decoder end with: (n 64 h/8 w/8), twice the side, ..."""
        hidden = functional.relu(_conv(self.decoder, "1", torch.tanh(latents / 3) * 3))
        found: list[Tensor] = []
        for blocks in DECODER_BLOCKS[:levels]:
            if found:
                larger = functional.interpolate(hidden, scale_factor=2, mode="nearest")
                hidden = _conv(self.decoder, f"{blocks[0] - 1}", larger)
            for block in blocks:
                hidden = _block(self.decoder, f"{block}", hidden)
            found.append(hidden)
        return found

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n 32 h/8 w/8) to pictures (n 3 h w) of about -1..1."""
        return _conv(self.decoder, "19", self.features(latents, levels=4)[-1]) * 2 - 1


def _read(path: Path) -> Weights:
    weights: Weights = torch.load(path, map_location="cpu", weights_only=True)
    return {key: tensor.float() for key, tensor in weights.items()}


def _conv(weights: Weights, key: str, hidden: Tensor, *, stride: int = 1) -> Tensor:
    weight = weights[f"{key}.weight"]
    padding = weight.shape[-1] // 2
    return functional.conv2d(hidden, weight, weights.get(f"{key}.bias"), stride, padding)


def _block(weights: Weights, key: str, hidden: Tensor) -> Tensor:
    if f"{key}.pool.0.weight" in weights:
        wide = _conv(weights, f"{key}.pool.0", hidden)
        gain, shift = weights[f"{key}.pool.1.weight"], weights[f"{key}.pool.1.bias"]
        wide = functional.relu(functional.group_norm(wide.float(), POOL_GROUPS, gain, shift))
        hidden = hidden + _conv(weights, f"{key}.pool.3", wide)
    inner = functional.relu(_conv(weights, f"{key}.conv.0", hidden))
    inner = functional.relu(_conv(weights, f"{key}.conv.2", inner))
    return functional.relu(hidden + _conv(weights, f"{key}.conv.4", inner))
