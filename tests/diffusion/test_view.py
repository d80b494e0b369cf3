"""What the U-Net may see of a face, and where what it makes goes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from latentsync.diffusion.view import MouthView, build_view, shown_part
from latentsync.faces.align import mouth_mask
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

SIDE = 256


def mouth_view() -> MouthView:
    return MouthView(torch.from_numpy(mouth_mask(SIDE)), factor=8)


def faces(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_nothing_that_the_mask_hides_reaches_the_network() -> None:
    view, real = mouth_view(), faces(0)
    hidden = 1 - (view.mask > 0).float()
    changed = real * (1 - hidden) + faces(1) * hidden
    assert torch.equal(view.known(real, lambda each: each), view.known(changed, lambda each: each))


def test_a_window_comes_back_to_where_it_was_cut() -> None:
    view, real = mouth_view(), faces(0)
    made = torch.zeros(2, 3, 128, 128, requires_grad=True)
    inserted = view.insert(made, real)
    assert torch.equal(view.insert(view.cut(real), real), real)
    assert torch.equal(view.cut(inserted), made)
    assert (inserted == 0).sum() == made.numel()
    inserted.sum().backward()
    assert made.grad is not None and bool((made.grad == 1).all())


def test_the_views_have_the_channels_that_a_unet_is_built_for() -> None:
    real, released = faces(0), load_recipe("stage2", UNetTrainingRecipe).network
    for name, latent_side, channels in (("face", 32, 32), ("mouth", 16, 32)):
        view = build_view(name, torch.from_numpy(mouth_mask(SIDE)), factor=8)  # type: ignore[arg-type]

        def encode(each: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(each), 32, each.shape[2] // 8, each.shape[3] // 8)

        config = released.replaced(view=name, latent_channels=channels)
        known, own = view.known(real, encode), encode(view.cut(real))
        assert known.shape[2:] == own.shape[2:] == view.small(view.mask).shape == (latent_side, latent_side)
        assert 2 * channels + 1 + known.shape[1] == config.in_channels


def test_a_window_is_shown_inside_and_softly_at_its_border() -> None:
    shown, made = shown_part("mouth", SIDE, feather=0.05)
    window = mouth_view().cut(torch.from_numpy(shown))
    assert np.count_nonzero(shown) == window.count_nonzero()
    assert (window[13:-13, 13:-13] == 1).all() and (window[[0, -1]] == 0).all()
    assert made.sum() == 128**2 == mouth_view().cut(torch.from_numpy(made)).sum()


@pytest.mark.parametrize("resolution", [256, 512])
def test_the_mask_at_the_size_of_latents_is_the_released_one(golden: Path, resolution: int) -> None:
    case = load_file(golden / f"mask_{resolution}.safetensors")
    view = build_view("face", torch.from_numpy(case["mask"]), factor=8)
    np.testing.assert_allclose(view.small(view.mask), case["latent_mask"], atol=1e-6)
