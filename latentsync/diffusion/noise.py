"""Noise with the right dependence between frames; drawn on the CPU from a generator passed in."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def shared_noise(shape: tuple[int, int, int, int, int], generator: torch.Generator) -> Tensor:
    """Draw one frame of noise per video and repeat it over the frames: (b c f h w), a view.

    The draw does not depend on the number of frames, so all windows of a video can share it.

    Source: the official pipeline prepares its latents this way.
    """
    batch, channels, _, rows, columns = shape
    return torch.randn((batch, channels, 1, rows, columns), generator=generator).expand(shape)


def mixed_noise(
    shape: tuple[int, int, int, int, int], generator: torch.Generator, *, alpha: float = 1.0
) -> Tensor:
    """Draw noise (b c f h w) of unit variance that is partly shared by the frames of a video.

    Args:
        alpha: the shared part has alpha² times the variance of the independent one; 0 shares nothing.

    Source: paper, section 3.1 (mixed noise model of Ge et al. 2023); alpha = 1 in the official training code.
    """
    # Variances a² / (1 + a²) and 1 / (1 + a²) add up to 1, so the schedule fits. Source: Ge et al. 2023.
    independent_std = 1 / math.sqrt(1 + alpha**2)
    shared = shared_noise(shape, generator)
    independent = torch.randn(shape, generator=generator)
    return independent_std * (alpha * shared + independent)
