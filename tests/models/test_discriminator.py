"""The discriminator of latents: what it sees, and what its gradients reach."""

from __future__ import annotations

import torch
from torch.nn import functional

from latentsync.models.adapter import STEPS
from latentsync.models.discriminator import LatentDiscriminator

SIDE = 16


def test_it_learns_to_tell_blurred_latents_and_foreign_speech() -> None:
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(4 + 2, tokens_dim=3)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2, betas=(0.5, 0.9))
    known = torch.zeros(16, 2, SIDE, SIDE)
    speech = torch.randn(16, 1, 1).expand(-1, STEPS, 3)
    # The first channel shows what is said; the others are noise, which the blurred ones lack.
    real = torch.randn(16, 4, SIDE, SIDE)
    real[:, 0] = speech[:, 0, 0, None, None]
    blurred = functional.avg_pool2d(real, 5, stride=1, padding=2)
    others = speech.roll(1, dims=0)
    for _ in range(80):
        scores = [discriminator(*given) for given in ((real, known, speech), (blurred, known, speech))]
        scores.append(discriminator(real, known, others))
        loss = functional.softplus(-scores[0]).mean() + sum(functional.softplus(s).mean() for s in scores[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = discriminator(real, known, speech).mean()
    assert right > discriminator(blurred, known, speech).mean() + 1
    assert right > discriminator(real, known, others).mean() + 0.5


def test_a_judgement_gives_gradients_to_the_latents_alone() -> None:
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(4 + 2, tokens_dim=0)
    latents = torch.randn(2, 4, SIDE, SIDE, requires_grad=True)
    known = torch.randn(2, 2, SIDE, SIDE)
    scores = discriminator.judge(latents, known, None)
    assert scores.shape == (2, 16**2 + 8**2 + 4**2)
    scores.sum().backward()
    assert latents.grad is not None and latents.grad.any()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert torch.allclose(scores, discriminator.eval()(latents, known, None), atol=0.5)
