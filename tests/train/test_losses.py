"""What training minimises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentsync.train.losses import mouth_region, mouth_weights, reconstruction_loss


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
