"""The picture autoencoder; latents are scaled here and nowhere else."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.models.network_keys import keep_network_keys
from latentsync.recipe.networks import VAEConfig

EncodeMode = Literal["sample", "mean"]


class FaceVAE(nn.Module):
    """Pictures in -1..1 to scaled latents and back. Its state dict has diffusers' own keys."""

    def __init__(self, network: Any, config: VAEConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        keep_network_keys(self)

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return self.config.patch << (len(self.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    def posterior(self, images_pm1: Tensor) -> Any:
        """Diffusers' `DiagonalGaussianDistribution` over the unscaled latents of pictures (n 3 h w)."""
        expect_axes(images_pm1, "n c h w", c=3)
        for size in images_pm1.shape[2:]:
            if size % self.factor:
                raise ValueError(f"picture side {size} px is not a multiple of {self.factor}")
        folded = functional.pixel_unshuffle(images_pm1, self.config.patch)
        return self.network.encode(folded, return_dict=False)[0]

    def encode(
        self, images_pm1: Tensor, *, generator: torch.Generator | None = None, mode: EncodeMode = "mean"
    ) -> Tensor:
        """Encode pictures (n 3 h w) in -1..1 to scaled latents (n c h/factor w/factor).

        Args:
            generator: draws the sample, on the CPU; None takes torch's global one.
            mode: "sample" draws from the posterior, as the reference does everywhere; "mean" is its centre.
        """
        posterior = self.posterior(images_pm1)
        latents: Tensor = posterior.mean
        if mode == "sample":
            # On the CPU, so that one seed gives one video on every device.
            drawn = torch.randn(latents.shape, generator=generator)
            latents = latents + posterior.std * drawn.to(latents)
        # To about unit variance, which the noise schedule expects.
        return latents * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (n c h w) to pictures (n 3 h·factor w·factor) of about -1..1."""
        expect_axes(latents, "n c h w", c=self.latent_channels)
        folded: Tensor = self.network.decode(latents / self.config.scaling_factor, return_dict=False)[0]
        return functional.pixel_shuffle(folded, self.config.patch)


def build_vae(config: VAEConfig) -> FaceVAE:
    """Build the autoencoder that `config` describes, with weights drawn from torch's global generator."""
    make_torchvision_importable()
    from diffusers import AutoencoderKL

    levels = len(config.block_out_channels)
    network = AutoencoderKL(
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.num_blocks,
        latent_channels=config.latent_channels,
        scaling_factor=config.scaling_factor,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=config.middle_attention,
    )
    return FaceVAE(network, config)
