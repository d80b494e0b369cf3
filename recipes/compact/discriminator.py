"""Tells real mouths from generated ones, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from latentsync.axes import expect_axes

SLOPE = 0.2
# Only grey detail finer than this is judged, made large enough to be seen: on whole pictures it took hundreds
# of steps to notice blur at all, and judged in colour it took the red out of lips.
DETAIL_PX = 5
CONTRAST = 10.0


class PatchDiscriminator(nn.Module):
    """Scores each patch of a picture: above 0 where it looks real.

    Source: PatchGAN (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018), which keeps a small
    one steady without a penalty on its gradients; the sizes are ours.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build one layer for each of `channels`, which halves the picture, and one that scores."""
        super().__init__()
        sizes = zip((1, *channels), channels, strict=False)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)) for before, after in sizes
        )
        self.score = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, pictures_pm1: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge pictures (n 3 h w) in -1..1.

        Returns:
            Scores (n 1 h/2^k w/2^k) after k layers, and what each layer saw.
        """
        expect_axes(pictures_pm1, "n c h w", c=3)
        grey = pictures_pm1.mean(1, keepdim=True)
        coarse = functional.avg_pool2d(
            grey, DETAIL_PX, stride=1, padding=DETAIL_PX // 2, count_include_pad=False
        )
        seen, features = CONTRAST * (grey - coarse), []
        for layer in self.layers:
            seen = functional.leaky_relu(layer(seen), SLOPE)
            features.append(seen)
        scores: Tensor = self.score(seen)
        return scores, features


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What a discriminator minimises: real scores of 1 or more, fake ones of -1 or less.

    Source: Lim and Ye 2017, as most decoders that are trained against a discriminator have it.
    """
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def feature_loss(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute error of what the layers of a discriminator saw, each by the size of the real ones.

    Source: Wang et al. 2018, section 3.3; the division is ours, so that no layer outweighs the others.
    """
    pairs = zip(made, real, strict=True)
    errors = [(one - other).abs().mean() / other.abs().mean().clamp(min=1e-3) for one, other in pairs]
    return torch.stack(errors).mean()
