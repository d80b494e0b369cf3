"""The patch discriminator: its sizes, and that it can tell two kinds of pictures apart."""

from __future__ import annotations

import torch

from latentsync.train.losses import hinge_loss
from recipes.compact.discriminator import PatchDiscriminator


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
