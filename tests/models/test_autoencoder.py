"""The compact model's autoencoder: its sizes, what its file holds, and that positions are independent."""

from pathlib import Path

import pytest
import torch

from latentsync.axes import ShapeError
from latentsync.models.autoencoder import TinyAutoencoder, build_tiny_autoencoder
from latentsync.recipe.networks import TinyAutoencoderConfig
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.models import load_autoencoder

SMALL = TinyAutoencoderConfig(
    latent_channels=6,
    encoder_channels=(8, 12, 16),
    encoder_blocks=(1, 1, 1),
    decoder_channels=(8, 12, 16),
    decoder_blocks=(1, 1, 1),
)


def built() -> TinyAutoencoder:
    torch.manual_seed(4)
    network = build_tiny_autoencoder(SMALL)
    for parameter in network.parameters():  # blocks begin as the identity
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


def test_a_latent_stands_for_eight_pixels_a_side() -> None:
    network = built()
    latents = network.encode(torch.rand(2, 3, 32, 48) * 2 - 1)
    assert latents.shape == (2, network.latent_channels, 32 // network.factor, 48 // network.factor)
    assert network.decode(latents).shape == (2, 3, 32, 48)
    with pytest.raises(ShapeError):
        network.decode(latents[:, :-1])


@torch.inference_mode()
def test_colours_far_away_change_nothing() -> None:
    """Without norms a patch is decoded as it is within a whole face."""
    network, latents = built(), torch.randn(1, 6, 4, 24)
    changed = latents.clone()
    changed[..., 20:] += 3
    one, other = network.decode(latents), network.decode(changed)
    assert torch.equal(one[..., :32], other[..., :32]) and not torch.equal(one, other)


def test_its_file_gives_it_back(tmp_path: Path) -> None:
    network, path = built(), tmp_path / "vae.safetensors"
    save_checkpoint(path, network.state_dict(), kind="autoencoder", config=SMALL)
    loaded = load_autoencoder(path, device=torch.device("cpu"), dtype=torch.float32)
    images = torch.rand(1, 3, 16, 16)
    # Not bit for bit: the weights of what is loaded lie in another order.
    assert torch.allclose(loaded.encode(images), network.encode(images), atol=1e-5)
