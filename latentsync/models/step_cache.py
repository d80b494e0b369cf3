"""Denoising steps that reuse what the deep layers of the U-Net made in an earlier step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentsync.axes import batch_to_frames, frames_to_batch
from latentsync.models.unet import LipUNet


class StepCache:
    """Runs a U-Net with motion modules in full or, in steps that look alike, its outermost layers only.

    A cached step computes the first convolution, the last layer of the last up block and the way out; what
    would enter that layer from below is that of the last full step. It costs a fifteenth of a full step
    of the released size.

    Source: the idea of DeepCache (Ma et al. 2024) at its shallowest branch.
    """

    def __init__(self, unet: LipUNet) -> None:
        if not unet.config.motion:
            raise ValueError("only U-Nets with motion modules have cached steps")
        self._unet = unet
        self._network: Any = unet.network
        blocks: Any = self._network.up_blocks
        self._last: Any = blocks[-1]
        self._deep: Tensor | None = None  # b·f c h w

    def full(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        """The U-Net's own step, which is remembered; arguments and answer as `LipUNet.forward`."""

        def remember(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            entering: Tensor = named["input_tensor"] if "input_tensor" in named else given[0]
            self._deep = entering[:, : -self._network.conv_in.out_channels]

        handle = self._last.resnets[-1].register_forward_pre_hook(remember, with_kwargs=True)
        try:
            predicted: Tensor = self._unet(sample, timesteps, audio)
        finally:
            handle.remove()
        return predicted

    def is_filled(self, sample: Tensor) -> bool:
        """Whether a full step with as many frames is remembered."""
        return self._deep is not None and len(self._deep) == sample.shape[0] * sample.shape[2]

    def cached(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        """A step that reuses the last full one."""
        if self._deep is None or not self.is_filled(sample):
            raise ValueError("there is no full step of this size to reuse")
        network, last, frames = self._network, self._last, sample.shape[2]
        embedded = network.time_embedding(network.time_proj(timesteps).to(sample.dtype))
        embedded = embedded.repeat_interleave(frames, dim=0)  # b·f d
        entered = network.conv_in(frames_to_batch(sample))  # b·f c h w
        hidden = last.resnets[-1](torch.cat([self._deep, entered], dim=1), embedded)
        if getattr(last, "has_cross_attention", False):
            hidden = last.attentions[-1](hidden, encoder_hidden_states=audio, return_dict=False)[0]
        hidden = last.motion_modules[-1](hidden, num_frames=frames)
        left: Tensor = network.conv_out(network.conv_act(network.conv_norm_out(hidden)))
        return batch_to_frames(left, frames=frames)
