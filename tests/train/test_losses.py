"""What training minimises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.train.losses import (
    coarse_loss,
    feature_loss,
    hinge_loss,
    mouth_region,
    mouth_weights,
    pixel_loss,
    reconstruction_loss,
)


def picture(seed: int = 0, side: int = 16) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_mouth_lies_low_in_the_middle() -> None:
    assert mouth_region(16) == (slice(8, 14), slice(4, 12))


def test_weights_of_mouth_generated_and_kept() -> None:
    mask = torch.ones(16, 16)
    mask[6:, 2:14] = 0
    weights = mouth_weights(mask, mouth=3.0, kept=0.25)
    assert (weights[10, 8], weights[7, 8], weights[0, 0]) == (3.0, 1.0, 0.25)


def test_the_same_picture_costs_nothing() -> None:
    assert reconstruction_loss(picture(), picture(), edge_weight=1.0) == 0


def test_a_shift_of_brightness_has_no_edges() -> None:
    brighter = picture() + 0.5
    for edge_weight in (0.0, 4.0):
        loss = reconstruction_loss(brighter, picture(), edge_weight=edge_weight)
        assert float(loss) == pytest.approx(0.5, abs=1e-5)


def test_lost_edges_cost_more_than_their_pixels() -> None:
    flat = picture().mean((2, 3), keepdim=True).expand(-1, -1, 16, 16)
    with_edges, without = (reconstruction_loss(flat, picture(), edge_weight=weight) for weight in (1.0, 0.0))
    assert float(with_edges) > 1.5 * float(without)


def test_only_the_decoded_mouth_counts() -> None:
    torch.manual_seed(0)
    config = VAEConfig(block_out_channels=(8, 8), num_blocks=1, latent_channels=2, patch=4, norm_num_groups=4)
    vae: FaceVAE = build_vae(config).eval().requires_grad_(False)
    real = torch.rand(1, 2, 8, 8)
    made = real.clone().requires_grad_()
    assert pixel_loss(vae, made, real).item() == 0
    loss = pixel_loss(vae, made + 1, real)
    loss.backward()
    assert made.grad is not None
    rows, columns = mouth_region(8)
    assert made.grad[:, :, rows, columns].abs().mean() > made.grad[:, :, :2].abs().mean()


def test_a_discriminator_that_is_sure_loses_nothing() -> None:
    sure, unsure = torch.full((4,), 1.5), torch.zeros(4)
    assert hinge_loss(sure, -sure) == 0
    assert hinge_loss(unsure, unsure) == 2
    assert hinge_loss(-sure, sure) == 5


def test_features_count_alike_whatever_their_size() -> None:
    real = [picture(1), 100 * picture(2)]
    one_off, other_off = [real[0] * 1.5, real[1]], [real[0], real[1] * 1.5]
    assert feature_loss(real, real) == 0
    assert feature_loss(one_off, real) == pytest.approx(0.25)
    assert feature_loss(other_off, real) == pytest.approx(0.25)


def test_detail_finer_than_the_squares_is_free() -> None:
    checked = torch.ones(1, 1, 8, 8)
    checked[..., ::2] = -1
    assert coarse_loss(checked, torch.zeros(1, 1, 8, 8), square_px=4) == 0
    assert coarse_loss(checked + 0.5, torch.zeros(1, 1, 8, 8), square_px=4) == pytest.approx(0.5)
