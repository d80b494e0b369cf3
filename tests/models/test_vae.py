from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig

FOLDED = VAEConfig(block_out_channels=(8, 8), num_blocks=1, scaling_factor=0.5, patch=2, norm_num_groups=4)
PLAIN = VAEConfig(block_out_channels=(32, 32), num_blocks=1)


def build(config: VAEConfig) -> FaceVAE:
    torch.manual_seed(0)
    return build_vae(config).eval()


@pytest.mark.parametrize(("config", "factor"), [(FOLDED, 4), (PLAIN, 2)])
def test_sizes_round_trip(config: VAEConfig, factor: int) -> None:
    vae = build(config)
    images_pm1 = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images_pm1)
        assert latents.shape == (2, vae.latent_channels, 16 // factor, 24 // factor)
        assert vae.decode(latents).shape == images_pm1.shape
    assert vae.factor == factor


@pytest.mark.parametrize("config", [FOLDED, PLAIN])
def test_latents_are_scaled_here_and_nowhere_else(config: VAEConfig) -> None:
    vae = build(config)
    images_pm1 = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        raw = vae.posterior(images_pm1).mean
        latents = vae.encode(images_pm1)
        torch.testing.assert_close(latents, raw * config.scaling_factor)
        unfolded = functional.pixel_shuffle(vae.network.decode(raw, return_dict=False)[0], config.patch)
        torch.testing.assert_close(vae.decode(latents), unfolded, atol=1e-5, rtol=1e-4)


def test_sample_follows_the_generator() -> None:
    vae = build(PLAIN)
    images_pm1 = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        first, again, other = (
            vae.encode(images_pm1, generator=torch.Generator().manual_seed(seed), mode="sample")
            for seed in (1, 1, 2)
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_default_is_the_stable_diffusion_autoencoder() -> None:
    with torch.device("meta"):
        vae = build_vae(VAEConfig())
    shapes = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert len(shapes) == 248
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert shapes["quant_conv.weight"] == (8, 8, 1, 1)


def test_side_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="18 px is not a multiple of 4"):
        build(FOLDED).encode(torch.zeros(1, 3, 16, 18))
