"""Tells real latents of a mouth from generated ones, beside what is seen of the face and the speech."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from latentsync.axes import expect_axes
from latentsync.models.adapter import STEPS

WIDTHS = (64, 96, 128)  # at the size of the latents, half and a quarter of it
SLOPE = 0.2


class LatentDiscriminator(nn.Module):
    """Scores patches of latents, each frame by itself: above 0 where they look real and fit the speech.

    In latents blur is easy to notice, because fine detail has channels of its own, and nothing is decoded.

    Source: PatchGAN (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018); that it judges
    latents is after Sauer et al. 2024 (latent adversarial distillation); sizes and speech are ours.

    Args:
        channels: of what it judges: the latents, and what is known beside them.
        tokens_dim: of the audio adapter's tokens; 0: it knows nothing of the speech.
    """

    def __init__(self, channels: int, *, tokens_dim: int) -> None:
        super().__init__()
        self.enter = spectral_norm(nn.Conv2d(channels, WIDTHS[0], 3, padding=1))
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in pairwise(WIDTHS)
        )
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in WIDTHS)
        self.speech = nn.Linear(STEPS * tokens_dim, sum(WIDTHS)) if tokens_dim else None

    def forward(self, latents: Tensor, known: Tensor, tokens: Tensor | None) -> Tensor:
        """Logits (n p) of all patches, at every size, of `latents` (n c h w).

        Args:
            known: (n k h w) seen of the same frames.
            tokens: (n 10 d) of the audio adapter.
        """
        expect_axes(latents, "n c h w", n=len(known))
        hidden = functional.leaky_relu(self.enter(torch.cat([latents, known], dim=1)), SLOPE)
        shifts: list[Tensor | None] = [None] * len(WIDTHS)
        if self.speech is not None and tokens is not None:
            shifts = list(self.speech(tokens.flatten(1))[:, :, None, None].split(WIDTHS, dim=1))
        found = []
        for number, (score, shift) in enumerate(zip(self.scores, shifts, strict=True)):
            if number:
                hidden = functional.leaky_relu(self.convs[number - 1](hidden), SLOPE)
            # Features that speech asks for count for, others against (a projection, Miyato and Koyama 2018).
            asked = 0.0 if shift is None else (hidden * shift).mean(1, keepdim=True)
            found.append((score(hidden) + asked).flatten(1))
        return torch.cat(found, dim=1)

    def judge(self, latents: Tensor, known: Tensor, tokens: Tensor | None) -> Tensor:
        """As `forward`, but gradients reach the latents only."""
        constants = {name: parameter.detach() for name, parameter in self.named_parameters()}
        scores: Tensor = functional_call(self, constants, (latents, known, tokens))
        return scores
