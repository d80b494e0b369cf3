"""Which part of an aligned face is generated, and what the U-Net is shown of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentsync.axes import batch_to_frames, expect_axes
from latentsync.diffusion.conditioning import Conditioning
from latentsync.recipe.networks import FOLD

ViewName = Literal["face", "mouth"]
Warp = Callable[[Tensor, Tensor], Tensor]  # windows of references (n 3 h w), and what is known of the targets
Encode = Callable[[Tensor], Tensor]  # pictures (n 3 h w) in -1..1 to latents (n c h w)

# The window around mouth and chin, as shares of the side of the aligned face. Source: landmarks of 31 people;
# chins reach 0.92 of the side (95 %), mouths 0.28 to 0.72.
WINDOW_TOP, WINDOW_LEFT, WINDOW_SIDE = 116 / 256, 64 / 256, 128 / 256


class FaceView:
    """The whole aligned face is generated, and what the mask keeps is seen through the autoencoder.

    Source: the paper, section 3.1.

    Args:
        mask: (h w) in pixels of the aligned face, 1 = kept, 0 = generated.
        factor: pixels per latent along one side.
    """

    def __init__(self, mask: Tensor, *, factor: int) -> None:
        self.mask, self.factor = mask, factor

    def small(self, plane: Tensor) -> Tensor:
        """A plane (h w) of the aligned face at the size of latents: every `factor`-th pixel, as released."""
        return plane[:: self.factor, :: self.factor].contiguous()

    def cut(self, faces: Tensor) -> Tensor:
        """The part of faces (n 3 h w) that is generated."""
        return faces

    def known(self, faces: Tensor, encode: Encode) -> Tensor:
        """What is seen of the faces (n 3 h w) that are being changed: (n k h w) at the size of latents."""
        return encode(self.masked(faces))

    def masked(self, faces: Tensor) -> Tensor:
        """Faces (n 3 h w) with grey where the mouth is generated."""
        return faces * self.mask

    def insert(self, made: Tensor, faces: Tensor) -> Tensor:
        """Faces (n 3 h w) with their generated part `made`; gradients pass."""
        return made


class MouthView:
    """A window around mouth and chin is generated, at twice the size that the whole face would have.

    The window and the whole face, both masked, are seen small, their pixels folded into channels: the
    autoencoder would cost more than it tells, since hardly anything in the window is kept. The mask hides
    cheeks and jaw outside the window, too, since they move with the mouth.

    Source: ours.

    Args:
        mask, factor: as for `FaceView`.
    """

    def __init__(self, mask: Tensor, *, factor: int) -> None:
        self.mask, self.factor = mask, factor
        side = len(mask)
        self.side = round(WINDOW_SIDE * side)
        self.top, self.left = round(WINDOW_TOP * side), round(WINDOW_LEFT * side)

    def small(self, plane: Tensor) -> Tensor:
        """The window of a plane (h w) of the aligned face at the size of latents."""
        return self.cut(plane)[:: self.factor, :: self.factor].contiguous()

    def cut(self, faces: Tensor) -> Tensor:
        """The windows (n c h/2 w/2) of faces (n c h w)."""
        return faces[..., self.top : self.top + self.side, self.left : self.left + self.side]

    def known(self, faces: Tensor, encode: Encode) -> Tensor:
        """The masked face and window (n 96 h w), small and folded, at the size of the window's latents."""
        expect_axes(faces, "n c h w", c=3)
        masked = faces * self.mask
        small_px = FOLD * self.side // self.factor
        return torch.cat([_folded(part, small_px) for part in (masked, self.cut(masked))], dim=1)

    def insert(self, made: Tensor, faces: Tensor) -> Tensor:
        """Faces (n 3 h w) with the generated windows (n 3 h/2 w/2) put in; gradients pass."""
        height, width = faces.shape[2:]
        right, bottom = width - self.left - self.side, height - self.top - self.side
        inside = functional.pad(made, (self.left, right, self.top, bottom))
        outside = faces.clone()
        self.cut(outside).zero_()
        return inside + outside


View = FaceView | MouthView


def build_view(name: ViewName, mask: Tensor, *, factor: int) -> View:
    """The view that a U-Net was built for."""
    return MouthView(mask, factor=factor) if name == "mouth" else FaceView(mask, factor=factor)


def condition(
    view: View,
    faces: Tensor,
    references: Tensor,
    encode: Encode,
    *,
    frames: int | None = None,
    at_once: bool = False,
    warp: Warp | None = None,
) -> Conditioning:
    """What the U-Net sees of windows of frames beside their noisy latents.

    Args:
        faces: (b·f 3 h w) that are being changed.
        references: (b·f 3 h w) of the same person.
        encode: the autoencoder's.
        frames: of each window; None: all are of one.
        at_once: references and masked faces pass the autoencoder together, where both do.
        warp: moves the windows of the references before they are encoded.
    """
    frames = frames or len(faces)
    if at_once and isinstance(view, FaceView):
        reference, masked = encode(torch.cat([references, view.masked(faces)])).chunk(2)
    else:
        shown = view.cut(references)
        if warp is None:  # in this order, because both may draw from one generator
            reference, masked = encode(shown), view.known(faces, encode)
        else:
            masked = view.known(faces, encode)
            reference = encode(warp(shown, masked))
    reference = batch_to_frames(reference, frames=frames)
    return Conditioning(
        mask=view.small(view.mask).to(reference).expand(len(reference), 1, frames, -1, -1),
        masked=batch_to_frames(masked, frames=frames).to(reference),
        reference=reference,
    )


def shown_part(
    name: ViewName, side: int, *, feather: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in an aligned face (h w) what was made is shown, 0..1, and what is made at all, 0 or 1.

    All of the whole face; of a window its inside, softly less towards its border.

    Args:
        feather: width of the soft border, as a share of the face's side.
    """
    if name == "face":
        return np.ones((side, side), np.float32), np.ones((side, side), np.float32)
    depth_px = np.full((2, side), -1.0)  # of each row and column inside the window
    for depth, start in zip(depth_px, (WINDOW_TOP, WINDOW_LEFT), strict=True):
        first, length = round(start * side), round(WINDOW_SIDE * side)
        inwards = np.arange(length)
        depth[first : first + length] = np.minimum(inwards, length - 1 - inwards)
    inside = np.minimum(depth_px[0][:, None], depth_px[1])  # h w
    ramp = np.clip(inside / (feather * side), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32), (inside >= 0).astype(np.float32)


def _folded(pictures: Tensor, side_px: int) -> Tensor:
    """Pictures (n 3 h w) averaged to `side_px`, each 4x4 pixels as channels: (n 48 side_px/4 side_px/4)."""
    shrink = pictures.shape[-1] // side_px
    return functional.pixel_unshuffle(functional.avg_pool2d(pictures, shrink), FOLD)
