"""Cached steps: what they reuse, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentsync.models.step_cache import StepCache
from latentsync.models.unet import LipUNet, build_unet
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

RELEASED_UNET = load_recipe("stage2", UNetTrainingRecipe).network


def small_unet(*, attention_levels: tuple[bool, bool] = (True, False), motion: bool = True) -> LipUNet:
    torch.manual_seed(0)
    sizes = dict(
        block_out_channels=(16, 32), attention_levels=attention_levels, norm_num_groups=8, audio_dim=24
    )
    unet = build_unet(RELEASED_UNET.replaced(**sizes, motion=motion)).eval()
    for name, parameter in unet.named_parameters():  # what starts at zero would hide everything
        if "proj_out" in name or "conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    timesteps = torch.full((batch,), 300)
    return torch.randn(batch, 13, 3, 8, 8), timesteps, torch.randn(batch * 3, 5, 24)


@pytest.mark.parametrize("attention_levels", [(True, False), (False, True)])
def test_a_cached_step_on_the_same_input_is_the_full_step(attention_levels: tuple[bool, bool]) -> None:
    unet = small_unet(attention_levels=attention_levels)
    cache, given = StepCache(unet), inputs(2)
    with torch.no_grad():
        full = cache.full(*given)
        torch.testing.assert_close(full, unet(*given), atol=0, rtol=0)
        torch.testing.assert_close(cache.cached(*given), full, atol=1e-5, rtol=1e-4)
        assert (cache.cached(given[0] + 1, *given[1:]) - full).abs().max() > 1e-3


def test_another_number_of_frames_needs_a_full_step() -> None:
    cache = StepCache(small_unet())
    assert not cache.is_filled(inputs(1)[0])
    with torch.no_grad():
        cache.full(*inputs(2))
    assert cache.is_filled(inputs(2)[0]) and not cache.is_filled(inputs(1)[0])
    with pytest.raises(ValueError, match="no full step of this size"):
        cache.cached(*inputs(1))


def test_a_unet_without_motion_modules_has_none() -> None:
    with pytest.raises(ValueError, match="motion modules"):
        StepCache(small_unet(motion=False))


def test_a_cached_step_of_the_released_size_costs_a_fifteenth() -> None:
    with torch.device("meta"):
        unet = build_unet(RELEASED_UNET)
        given = torch.empty(1, 13, 16, 32, 32), torch.zeros(1, dtype=torch.long), torch.empty(16, 50, 384)
    cache, spent = StepCache(unet), []
    for step in (cache.full, cache.cached):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            step(*given)
        spent.append(counter.get_total_flops())
    assert spent[1] / spent[0] == pytest.approx(1 / 15, abs=0.005)
