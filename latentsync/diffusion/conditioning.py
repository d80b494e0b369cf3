"""What the U-Net sees beside the noisy latents, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsync.axes import expect_axes


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Latents that stay fixed while the mouth is denoised.

    mask       (b 1 f h w)  1 where the frame is kept, 0 where the mouth is generated (as released)
    masked     (b k f h w)  what is seen of the target frames, see `latentsync.diffusion.view`: with the mouth
                            painted out, through the VAE (k = c), or small and folded
    reference  (b c f h w)  frames of the same person, through the VAE: others in training; in use the same,
                            or one of the shot where it is warped

    c is 4 in the released models.
    """

    mask: Tensor
    masked: Tensor
    reference: Tensor

    def __post_init__(self) -> None:
        expect_axes(self.masked, "b c f h w")
        batch, _, frames, rows, columns = self.masked.shape
        expect_axes(self.mask, "b c f h w", b=batch, c=1, f=frames, h=rows, w=columns)
        expect_axes(self.reference, "b c f h w", b=batch, f=frames, h=rows, w=columns)

    def join(self, noisy: Tensor) -> Tensor:
        """Put `noisy` (b c f h w) in front of the fixed latents: (b 2·c+1+k f h w), 13 channels as released.

        Source: channel order as in the official `train_unet.py`.
        """
        expect_axes(noisy, "b c f h w", c=self.reference.shape[1])
        return torch.cat([noisy, self.mask, self.masked, self.reference], dim=1)  # b c f h w

    def twice(self) -> Conditioning:
        """The same latents for both halves of a guided batch."""
        return Conditioning(
            mask=self.mask.repeat(2, 1, 1, 1, 1),
            masked=self.masked.repeat(2, 1, 1, 1, 1),
            reference=self.reference.repeat(2, 1, 1, 1, 1),
        )
