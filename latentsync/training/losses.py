"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latentsync.models.vae import FaceVAE

# Where the mouth lies in an aligned crop, as shares of its side. Source: landmarks of our clips.
MOUTH_ROWS = (0.5, 0.875)
MOUTH_COLUMNS = (0.25, 0.75)


def mouth_region(side: int) -> tuple[slice, slice]:
    """Rows and columns of the mouth in an aligned crop of `side` pixels or latents."""
    (top, bottom), (left, right) = MOUTH_ROWS, MOUTH_COLUMNS
    return slice(int(top * side), int(bottom * side)), slice(int(left * side), int(right * side))


def mouth_weights(latent_mask: Tensor, *, mouth: float, kept: float) -> Tensor:
    """Weights (h w) of the latents: `mouth` where the mouth is, 1 where else is generated, `kept` outside."""
    weights = torch.where(latent_mask < 0.5, 1.0, kept)
    weights[mouth_region(len(latent_mask))] = mouth
    return weights


def reconstruction_loss(made: Tensor, real: Tensor, *, edge_weight: float) -> Tensor:
    """Mean absolute error of (b c h w), plus that of the edges at two scales, which keeps lip lines sharp.

    Source: ours; a perceptual network would need weights that cannot be shipped.
    """
    loss = functional.l1_loss(made, real)
    for scale in (1, 2):
        small_made, small_real = functional.avg_pool2d(made, scale), functional.avg_pool2d(real, scale)
        for axis in (2, 3):
            loss = loss + edge_weight * functional.l1_loss(
                small_made.diff(dim=axis), small_real.diff(dim=axis)
            )
    return loss


def pixel_loss(vae: FaceVAE, made: Tensor, real: Tensor) -> Tensor:
    """`reconstruction_loss` of the decoded mouths of scaled latents (b c h w)."""
    rows, columns = mouth_region(made.shape[2] * vae.factor)
    decoded = vae.decode(made)[:, :, rows, columns]
    with torch.no_grad():
        wanted = vae.decode(real)[:, :, rows, columns]
    return reconstruction_loss(decoded, wanted, edge_weight=0.5)
