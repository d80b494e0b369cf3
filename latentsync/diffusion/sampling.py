"""From noise to latents: the DDIM schedule, guidance, and the one-step estimate that training uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.diffusion.conditioning import Conditioning
from latentsync.types import PredictionType, TimestepSpacing

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def build_scheduler(
    prediction_type: PredictionType = "epsilon", timestep_spacing: TimestepSpacing = "leading"
) -> DDIMScheduler:
    """Build the noise schedule; the defaults are those of the released models.

    "leading" starts at 951 of 1000 in 20 steps and ends just before clean, as released. "trailing" starts at
    999 and ends clean, which matters with few steps.

    Source: the official `configs/scheduler_config.json`; "trailing": Lin et al. 2024, section 3.4.
    """
    make_torchvision_importable()
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=timestep_spacing == "trailing",
        steps_offset=1,
        prediction_type=prediction_type,
        timestep_spacing=timestep_spacing,
    )


@torch.no_grad()
def denoise(
    unet: nn.Module,
    scheduler: DDIMScheduler,
    noise: Tensor,
    conditioning: Conditioning,
    audio: Tensor,
    *,
    steps: int,
    guidance: float,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Turn `noise` (b 4 f h w) into clean latents (b 4 f h w) that fit `audio` (b·f n d).

    Args:
        unet: takes (b 13 f h w), (b,), (b·f n d); see `latentsync.models.unet`.
        scheduler: what the network predicts and which timesteps are visited; see `build_scheduler`.
        guidance: above 1 the network also runs on silence (zeros) and the difference is stretched.
        on_step: called after each step with its index and the latents.

    Source: DDIM without noise (eta 0); guidance as in the official pipeline, the silent half first.
    """
    expect_axes(noise, "b c f h w")
    is_guided = guidance > 1
    if is_guided:
        audio = torch.cat([torch.zeros_like(audio), audio])  # b·f n d
        conditioning = conditioning.twice()
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        noisy = torch.cat([latents, latents]) if is_guided else latents  # b c f h w
        predicted = unet(conditioning.join(noisy), timestep.expand(len(noisy)), audio)
        if is_guided:
            unconditional, conditional = predicted.chunk(2)
            # Source: Ho and Salimans 2022, classifier-free guidance.
            predicted = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(predicted, timestep, latents, eta=0.0, return_dict=False)[0]
        if on_step is not None:
            on_step(step, latents)
    return latents


def one_step_clean(noisy: Tensor, predicted: Tensor, timesteps: Tensor, scheduler: DDIMScheduler) -> Tensor:
    """Estimate the clean latents (b 4 f h w) from `noisy` and the network's output at `timesteps` (b,).

    What `predicted` means (noise, velocity or the clean latents) follows the scheduler.

    Source: paper, equation 1 (noise); velocity: Salimans and Ho 2022, section 4.
    """
    expect_axes(noisy, "b c f h w")
    expect_axes(timesteps, "b", b=len(noisy))
    # In the prediction's number format, as in the official code.
    kept: Tensor = scheduler.alphas_cumprod.to(noisy.device)[timesteps].to(predicted.dtype)  # b
    kept = kept[:, None, None, None, None]  # b c f h w
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "sample":
        return predicted
    if prediction_type == "v_prediction":
        return kept.sqrt() * noisy - (1 - kept).sqrt() * predicted
    return (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()
