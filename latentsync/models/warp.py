"""Moves the pixels of a reference to the target's pose and to the mouth that the speech asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import expect_axes
from latentsync.models.adapter import STEPS
from latentsync.recipe.networks import FOLD

NORM_GROUPS = 8
COARSE_BLOCKS = 2  # of each level but the finest, which costs most
SPEECH_DIM = 256  # of the vector that scales and shifts every block
FLOW_REACH = 0.25  # a flow of 1 moves by this share of half a side
PAINT_BIAS = -3.0  # at first a twentieth of the picture is painted


class Warped(NamedTuple):
    """What `ReferenceWarp` made of a reference.

    pictures  (n 3 h w) in -1..1
    flow      (n 2 h w) where each pixel was taken from, right and down, as shares of half a side
    painted   (n 1 h w) how much of each pixel is not the reference's, 0..1
    colours   (n 3 h w) in -1..1, of what is painted
    """

    pictures: Tensor
    flow: Tensor
    painted: Tensor
    colours: Tensor


class SpeechBlock(nn.Module):
    """Two convolutions around a shortcut; speech scales and shifts what lies between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(NORM_GROUPS, channels) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.speech = nn.Linear(SPEECH_DIM, 2 * channels)
        _start_at_zero(self.convs[1])  # a block begins as the identity

    def forward(self, hidden: Tensor, speech: Tensor) -> Tensor:
        change = self.convs[0](functional.silu(self.norms[0](hidden)))
        scale, shift = self.speech(speech)[:, :, None, None].chunk(2, dim=1)
        change = self.convs[1](functional.silu(self.norms[1](change) * (1 + scale) + shift))
        return torch.as_tensor(hidden + change)


class ReferenceWarp(nn.Module):
    """Predicts a flow that warps the reference, and colours for what no pixel of it shows.

    Lips, teeth, skin and beard stay the person's own, pixel by pixel, and the U-Net is given a reference that
    already fits the frame. It works at half the size of the window.

    Source: ours; that a generator learns more from a deformed reference than from one beside the target is
    after DINet (Zhang et al. 2023).

    Args:
        widths: of the levels, the finest, of a quarter of the window's size, first.
        tokens_dim: of the audio adapter's tokens.
    """

    def __init__(self, widths: tuple[int, ...], *, tokens_dim: int) -> None:
        super().__init__()
        blocks = (1, *(COARSE_BLOCKS for _ in widths[1:]))
        self.speech = nn.Sequential(
            nn.Linear(STEPS * tokens_dim, SPEECH_DIM), nn.SiLU(), nn.Linear(SPEECH_DIM, SPEECH_DIM)
        )
        # The reference, the target's window and face as far as they are seen, and two positions, 2x2 folded.
        self.enter = nn.Conv2d(4 * (3 * 3 + 2), widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(_level, widths, blocks))
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.ups = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine in widths[:-1])
        self.decoder = nn.ModuleList(map(_level, widths[:-1], blocks))
        self.norm_out = nn.GroupNorm(NORM_GROUPS, widths[0])
        self.leave = nn.Conv2d(widths[0], 4 * (2 + 1 + 3), 3, padding=1)  # flow, blend, colours
        _start_at_zero(self.leave)

    def forward(self, references_pm1: Tensor, known: Tensor, tokens: Tensor) -> Warped:
        """Warp references (n 3 h w) in -1..1 to what is `known` of the targets and to their speech.

        Args:
            known: (n 96 h/8 w/8) as `MouthView.known` returns it.
            tokens: (n 10 d) of the audio adapter.
        """
        expect_axes(references_pm1, "n c h w", c=3)
        expect_axes(tokens, "n t d", n=len(references_pm1), t=STEPS)
        speech = self.speech(tokens.flatten(1))
        seen = functional.pixel_shuffle(known, FOLD)  # n 6 h/2 w/2
        small = functional.avg_pool2d(references_pm1, 2)
        positions = _grid(small).permute(0, 3, 1, 2).expand(len(small), -1, -1, -1).to(small)
        hidden = self.enter(functional.pixel_unshuffle(torch.cat([small, seen, positions], dim=1), 2))
        finer: list[Tensor] = []
        for number, level in enumerate(self.encoder):
            if number:
                finer.append(hidden)
                hidden = self.downs[number - 1](hidden)
            hidden = _through(level, hidden, speech)
        for number in reversed(range(len(self.ups))):
            larger = functional.interpolate(hidden, scale_factor=2, mode="nearest")
            joined = torch.cat([self.ups[number](larger), finer[number]], dim=1)
            hidden = _through(self.decoder[number], self.joins[number](joined), speech)
        made = functional.pixel_shuffle(self.leave(functional.silu(self.norm_out(hidden))), 2)
        made = functional.interpolate(made, scale_factor=2, mode="bilinear", align_corners=False).float()
        flow, blend, colours = made.split([2, 1, 3], dim=1)
        painted = torch.sigmoid(blend + PAINT_BIAS)
        return _drawn(references_pm1, FLOW_REACH * flow, painted, torch.tanh(colours))


def stretched(references_pm1: Tensor, spoken: Warped, silent: Warped, guidance: float) -> Warped:
    """References (n 3 h w) warped as for the speech, their flow stretched away from that for silence.

    What is painted stays that for the speech.

    Source: Ho and Salimans 2022, classifier-free guidance; of a flow: ours.
    """
    flow = silent.flow + guidance * (spoken.flow - silent.flow)
    return _drawn(references_pm1, flow, spoken.painted, spoken.colours)


def _drawn(references_pm1: Tensor, flow: Tensor, painted: Tensor, colours: Tensor) -> Warped:
    # In float32: with 8 bits a position would be off by half a pixel.
    places = _grid(references_pm1) + flow.permute(0, 2, 3, 1)
    moved = functional.grid_sample(references_pm1.float(), places, padding_mode="border", align_corners=False)
    return Warped(torch.lerp(moved, colours, painted).to(references_pm1), flow, painted, colours)


def _level(channels: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(SpeechBlock(channels) for _ in range(blocks))


def _through(level: nn.Module, hidden: Tensor, speech: Tensor) -> Tensor:
    for block in level.children():
        hidden = block(hidden, speech)
    return hidden


def _grid(pictures: Tensor) -> Tensor:
    """The positions (1 h w 2) of pixels, right and down, in -1..1 from edge to edge, in float32."""
    rows, columns = (
        (2 * torch.arange(side, device=pictures.device, dtype=torch.float32) + 1) / side - 1
        for side in pictures.shape[2:]
    )
    down, right = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([right, down], dim=-1)[None]


def _start_at_zero(convolution: nn.Module) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
