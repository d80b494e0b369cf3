"""Training of the network that warps the reference, see `latentsync.models.warp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from latentsync.axes import expect_axes
from latentsync.diffusion.view import Encode, View
from latentsync.models.warp import Warped
from latentsync.train.losses import mouth_region, reconstruction_loss

WINDOW_WEIGHT = 0.5  # of all that is generated, beside the mouth
EDGE_WEIGHT = 0.5
# Of what is painted: an open mouth is worth it. Without, blurred colours covered skin and teeth everywhere.
PAINT_WEIGHT = 0.2
SMOOTHNESS = 5.0  # of the flow, where nothing else says what it should be: of even skin


@dataclass(frozen=True, slots=True)
class ShownReferences:
    """What a network that warps its references is given of them.

    windows_pm1  (b·f 3 h w) in -1..1
    known        (b·f k h w) seen of the targets
    encode       the autoencoder's, without gradients; None: they are warped, and nothing else is done
    """

    windows_pm1: Tensor
    known: Tensor
    encode: Encode | None


class Generated(NamedTuple):
    """What a network that warps its references, or has a discriminator beside it, made of a batch.

    predicted  (b c f h w)  as `LipUNet.forward` returns it
    warped     the references, as pictures, if it warps them
    latents    (b c f h w)  of the references, without gradients
    scores     three times logits (b·f p) of the discriminator: of what was predicted, for the U-Net; then of
               that and of what is real, for the discriminator itself
    """

    predicted: Tensor
    warped: Warped | None
    latents: Tensor
    scores: tuple[Tensor, ...] = ()


def warp_loss(warped: Warped, faces_pm1: Tensor, view: View) -> Tensor:
    """How far warped references are from the windows of the target faces (n 3 h w) in -1..1.

    Source: ours.
    """
    expect_axes(faces_pm1, "n c h w", n=len(warped.pictures), c=3)
    rows, columns = mouth_region(faces_pm1.shape[2])
    shown = view.insert(warped.pictures, faces_pm1)[:, :, rows, columns]
    mouth = reconstruction_loss(shown, faces_pm1[:, :, rows, columns], edge_weight=EDGE_WEIGHT)
    window = functional.l1_loss(warped.pictures, view.cut(faces_pm1))
    roughness = warped.flow.diff(dim=2).abs().mean() + warped.flow.diff(dim=3).abs().mean()
    return mouth + WINDOW_WEIGHT * window + PAINT_WEIGHT * warped.painted.mean() + SMOOTHNESS * roughness
