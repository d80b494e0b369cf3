from __future__ import annotations

import pytest
import torch
from torch import nn

from latentsync.errors import ShapeError
from latentsync.models.unet import LipUNet, build_unet
from tests.networks import RELEASED_UNET

SMALL = dict(block_out_channels=(16, 32), attention_levels=(True, False), norm_num_groups=8, audio_dim=24)


def small_unet(**changes: object) -> LipUNet:
    torch.manual_seed(0)
    return build_unet(RELEASED_UNET.replaced(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def wake(unet: LipUNet) -> LipUNet:
    """Give what starts at zero some weight, so that every part has a say in the output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "proj_out" in name or "conv_out" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return unet


def inputs(batch: int = 1, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn((batch, 13, frames, 8, 8), generator=generator)
    return sample, torch.arange(batch) * 300 + 20, torch.randn((batch * frames, 5, 24), generator=generator)


@pytest.mark.parametrize("motion", [True, False])
def test_videos_of_a_batch_are_independent(motion: bool) -> None:
    unet = wake(small_unet(motion=motion))
    sample, timesteps, audio = inputs(batch=2)
    with torch.no_grad():
        both = unet(sample, timesteps, audio)
        second = unet(sample[1:], timesteps[1:], audio[3:])
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=1e-4)


def test_new_network_predicts_zero() -> None:
    with torch.no_grad():
        assert small_unet()(*inputs()).abs().max() == 0


@pytest.mark.parametrize("reference_residual", [True, False])
def test_every_parameter_learns(reference_residual: bool) -> None:
    unet = wake(small_unet(reference_residual=reference_residual)).train()
    unet(*inputs()).square().mean().backward()
    assert [name for name, parameter in unet.named_parameters() if parameter.grad is None] == []


def test_the_residual_adds_the_reference_to_the_output() -> None:
    unet, (sample, timesteps, audio) = small_unet(reference_residual=True), inputs()
    assert unet.residual is not None
    nn.init.dirac_(unet.residual.weight)
    with torch.no_grad():
        torch.testing.assert_close(unet(sample, timesteps, audio), sample[:, -4:])


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    plain, checkpointed = (wake(small_unet()).train() for _ in range(2))
    checkpointed.enable_gradient_checkpointing()
    for unet in (plain, checkpointed):
        unet(*inputs()).square().mean().backward()
    torch.testing.assert_close(
        plain.network.conv_in.weight.grad, checkpointed.network.conv_in.weight.grad, atol=1e-6, rtol=1e-4
    )


def test_motion_in_decoder_only_holds_no_other_motion() -> None:
    keys = small_unet(motion_modules="decoder").state_dict().keys()
    assert any("up_blocks.0.motion_modules" in key for key in keys)
    assert not any("down_blocks" in key and "motion_modules" in key for key in keys)


def test_motion_in_decoder_only_runs() -> None:
    with torch.no_grad():
        assert small_unet(motion_modules="decoder")(*inputs()).shape == (1, 4, 3, 8, 8)


def test_state_dict_has_the_librarys_keys() -> None:
    unet = small_unet(motion=False)
    state = unet.state_dict()
    assert state.keys() == unet.network.state_dict().keys()
    small_unet(motion=False).load_state_dict(state, strict=True)


def test_state_dict_inside_a_wrapper() -> None:
    wrapped = torch.nn.ModuleDict({"module": small_unet(motion=False)})
    assert "module.conv_in.weight" in wrapped.state_dict()
    wrapped.load_state_dict(wrapped.state_dict(), strict=True)


def test_audio_must_have_a_row_per_frame() -> None:
    sample, timesteps, audio = inputs()
    with pytest.raises(ShapeError, match="axis b"):
        small_unet()(sample, timesteps, audio[:-1])


def test_window_longer_than_the_positional_table() -> None:
    with pytest.raises(ValueError, match="window of 5 frames"):
        small_unet(motion_max_frames=4)(*inputs(frames=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_levels": (True,)}, "one entry per level"),
        ({"block_out_channels": (16, 36)}, "36 channels"),
    ],
)
def test_config_that_cannot_be_built(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RELEASED_UNET.replaced(**{**SMALL, **changes})  # type: ignore[arg-type]
