"""Muon: updates are orthogonal and of AdamW's size, what is no matrix is AdamW's, and state survives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latentsync.train.muon import Muon, orthogonal

HOW = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 36, 5))


def train(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int) -> float:
    torch.manual_seed(1)
    images, wanted = torch.randn(16, 3, 8, 8), torch.randn(16, 5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(images) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 30))
    assert values.min() > 0.6 and values.max() < 1.3


def test_it_learns_and_an_update_has_the_size_of_adams() -> None:
    model = network()
    before = [each.detach().clone() for each in model.parameters()]
    still = {**HOW, "weight_decay": 0.0}
    first = train(model, Muon(model.parameters(), **still), 1)  # type: ignore[arg-type]
    for old, new in zip(before, model.parameters(), strict=True):
        size = (new - old).square().mean().sqrt() / 0.01
        assert 0.15 < size < 0.25 if new.ndim > 1 else 0.9 < size < 1.1
    assert train(model, Muon(model.parameters(), **still), 60) < 0.2 * first  # type: ignore[arg-type]


def test_what_is_no_matrix_is_moved_as_adamw_moves_it() -> None:
    model = network()
    other = copy.deepcopy(model)
    for each in (model, other):
        for parameter in each.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
    train(model, Muon([each for each in model.parameters() if each.ndim == 1], **HOW), 5)  # type: ignore[arg-type]
    vectors = [each for each in other.parameters() if each.ndim == 1]
    train(other, torch.optim.AdamW(vectors, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1), 5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
