"""From noise to latents: the DDIM schedule, guidance, and the one-step estimate that training uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.diffusion.conditioning import Conditioning
from latentsync.models.step_cache import StepCache
from latentsync.models.unet import LipUNet
from latentsync.types import PredictionType, TimestepSpacing

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What makes denoising cheaper and changes its result; the defaults change nothing.

    cache_interval           a full step every so many, cached ones in between: see `StepCache`
    guided_from, guided_to   shares of the steps between which guidance is on; elsewhere one half is computed

    Source of the interval: Kynkäänniemi et al. 2024, "Applying guidance in a limited interval".
    """

    cache_interval: int = 1
    guided_from: float = 0.0
    guided_to: float = 1.0

    def is_guided(self, step: int, steps: int) -> bool:
        return self.guided_from <= step / steps < self.guided_to


NO_SHORTCUTS = Shortcuts()


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
    shortcuts: Shortcuts = NO_SHORTCUTS,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Turn `noise` (b 4 f h w) into clean latents (b 4 f h w) that fit `audio` (b·f n d).

    Nothing here waits for the device: what a step needs of the schedule stays on the CPU.

    Args:
        unet: takes (b 13 f h w), (b,), (b·f n d); see `latentsync.models.unet`.
        noise: the latents keep its number format, the U-Net sees that of `conditioning`.
        scheduler: what the network predicts and which timesteps are visited; see `build_scheduler`.
        guidance: above 1 the network also runs on silence (zeros) and the difference is stretched.
        on_step: called after each step with its index and the latents.

    Source: DDIM without noise (eta 0); guidance as in the official pipeline, the silent half first.
    """
    expect_axes(noise, "b c f h w")
    given = {False: (conditioning, audio)}
    if guidance > 1:
        given[True] = conditioning.twice(), torch.cat([torch.zeros_like(audio), audio])  # b·f n d
    predict = _stepper(unet, shortcuts)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.to(noise.device, non_blocking=True)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        is_guided = guidance > 1 and shortcuts.is_guided(step, steps)
        fixed, states = given[is_guided]
        noisy = torch.cat([latents, latents]) if is_guided else latents  # b c f h w
        seen = fixed.join(noisy.to(fixed.reference))
        predicted = predict(step, seen, timesteps[step].expand(len(noisy)), states).to(latents)
        if is_guided:
            unconditional, conditional = predicted.chunk(2)
            # Source: Ho and Salimans 2022, classifier-free guidance.
            predicted = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(predicted, timestep, latents, eta=0.0, return_dict=False)[0]
        if on_step is not None:
            on_step(step, latents)
    return latents


def _stepper(unet: nn.Module, shortcuts: Shortcuts) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """The network's call in each step: in full, or cached where that is wanted and possible."""
    is_cached = shortcuts.cache_interval > 1 and isinstance(unet, LipUNet) and unet.config.motion
    cache = StepCache(unet) if is_cached and isinstance(unet, LipUNet) else None

    def predict(step: int, seen: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        if cache is None:
            predicted: Tensor = unet(seen, timesteps, states)
            return predicted
        if step % shortcuts.cache_interval and cache.is_filled(seen):
            return cache.cached(seen, timesteps, states)
        return cache.full(seen, timesteps, states)

    return predict


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
