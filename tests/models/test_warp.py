"""The network that warps a reference: identity at first, and able to learn a movement and a colour."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentsync.models.unet import build_unet
from latentsync.models.warp import ReferenceWarp, stretched
from tests.networks import TINY_UNET

SIDE_PX = 64


def warp_of() -> ReferenceWarp:
    torch.manual_seed(0)
    return ReferenceWarp((8, 16), tokens_dim=12)


def inputs(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand((count, 3, SIDE_PX, SIDE_PX), generator=generator) * 2 - 1
    known = torch.zeros(count, 96, SIDE_PX // 8, SIDE_PX // 8)
    return pictures, known, torch.randn((count, 10, 12), generator=generator)


def test_a_new_network_leaves_the_reference_nearly_as_it_is() -> None:
    pictures, known, tokens = inputs()
    warped = warp_of()(pictures, known, tokens)
    assert warped.flow.abs().max() == 0
    assert (warped.pictures - pictures * 0.9526).abs().max() < 1e-3  # a twentieth is painted, grey


def test_half_precision_moves_nothing_by_itself() -> None:
    pictures, known, tokens = (tensor.bfloat16() for tensor in inputs())
    warped = warp_of().bfloat16()(pictures, known, tokens)
    assert warped.pictures.dtype == torch.bfloat16
    assert (warped.pictures - pictures * 0.9526).abs().max() < 0.02


def test_it_learns_to_move_the_reference() -> None:
    warp, (pictures, known, tokens) = warp_of(), inputs()
    smooth = torch.nn.functional.interpolate(pictures[:, :, ::16, ::16], SIDE_PX, mode="bicubic")
    target = smooth.roll(3, dims=3)
    optimizer = torch.optim.Adam(warp.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error = (warp(smooth, known, tokens).pictures - target)[..., 8:-8].abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 3


def test_speech_and_what_is_seen_reach_the_picture() -> None:
    warp, (pictures, known, tokens) = warp_of(), inputs()
    for parameter in warp.parameters():  # blocks begin as the identity, to which speech says nothing
        torch.nn.init.normal_(parameter, std=0.1)
    plain = warp(pictures, known, tokens).pictures
    assert (warp(pictures, known, tokens + 1).pictures - plain).abs().max() > 1e-3
    assert (warp(pictures, known + 1, tokens).pictures - plain).abs().max() > 1e-3


def test_guidance_stretches_the_flow_away_from_silence_and_keeps_the_colours() -> None:
    torch.manual_seed(0)
    unet = build_unet(TINY_UNET.replaced(view="mouth", adapter_dim=12, warp_widths=(8, 16)))
    for parameter in unet.warp.parameters() if unet.warp else ():
        torch.nn.init.normal_(parameter, std=0.1)
    (pictures, known, _), audio = inputs(), torch.randn(2, 50, 12)
    spoken, silent = (unet.warp_reference(pictures, known, heard) for heard in (audio, 0 * audio))
    for off in (unet.warp_for(audio), unet.warp_for(audio, 1.0)):
        assert off is not None and torch.equal(off(pictures, known), spoken.pictures)
    guided, wanted = unet.warp_for(audio, 3.0), stretched(pictures, spoken, silent, 3.0)
    assert guided is not None and torch.equal(guided(pictures, known), wanted.pictures)
    torch.testing.assert_close(wanted.flow - silent.flow, 3 * (spoken.flow - silent.flow))
    assert (wanted.flow - spoken.flow).abs().max() > 1e-3
    assert torch.equal(wanted.painted, spoken.painted) and torch.equal(wanted.colours, spoken.colours)


def test_a_network_without_a_warp_says_so() -> None:
    pictures, known, _ = inputs()
    unet = build_unet(TINY_UNET)
    assert unet.warp_for(torch.zeros(2, 5, 12)) is None
    with pytest.raises(ValueError, match="warp_widths"):
        unet.warp_reference(pictures, known, torch.zeros(2, 5, 12))
