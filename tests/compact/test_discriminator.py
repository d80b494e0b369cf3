"""The patch discriminator tells two kinds of pictures apart, and the losses beside it."""

from __future__ import annotations

import pytest
import torch

from recipes.compact.discriminator import PatchDiscriminator, feature_loss, hinge_loss
from recipes.compact.training import coarse_loss


def test_every_layer_halves_the_picture() -> None:
    scores, features = PatchDiscriminator((4, 8))(torch.zeros(2, 3, 24, 32))
    assert [tuple(layer.shape) for layer in features] == [(2, 4, 12, 16), (2, 8, 6, 8)]
    assert scores.shape == (2, 1, 6, 8)


def test_it_learns_to_tell_sharp_from_blurred() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator((8, 8))
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.02)
    sharp = torch.randn(8, 3, 16, 16).clamp(-1, 1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    for _ in range(60):
        loss = hinge_loss(discriminator(sharp)[0], discriminator(blurred)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert discriminator(sharp)[0].mean() > 0 > discriminator(blurred)[0].mean()


def test_a_discriminator_that_is_sure_loses_nothing() -> None:
    sure, unsure = torch.full((4,), 1.5), torch.zeros(4)
    assert hinge_loss(sure, -sure) == 0
    assert hinge_loss(unsure, unsure) == 2
    assert hinge_loss(-sure, sure) == 5


def test_features_count_alike_whatever_their_size() -> None:
    real = [torch.rand(1, 3, 16, 16), 100 * torch.rand(1, 3, 16, 16)]
    one_off, other_off = [real[0] * 1.5, real[1]], [real[0], real[1] * 1.5]
    assert feature_loss(real, real) == 0
    assert feature_loss(one_off, real) == pytest.approx(0.25)
    assert feature_loss(other_off, real) == pytest.approx(0.25)


def test_detail_finer_than_the_squares_is_free() -> None:
    checked = torch.ones(1, 1, 8, 8)
    checked[..., ::2] = -1
    assert coarse_loss(checked, torch.zeros(1, 1, 8, 8), square_px=4) == 0
    assert coarse_loss(checked + 0.5, torch.zeros(1, 1, 8, 8), square_px=4) == pytest.approx(0.5)
