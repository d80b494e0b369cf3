"""The audio-conditioned U-Net: diffusers' networks with the normalisation of the released weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.axes import batch_to_frames, expect_axes, frames_to_batch
from latentsync.compat import make_torchvision_importable
from latentsync.models.adapter import AudioAdapter
from latentsync.models.network_keys import keep_network_keys
from latentsync.models.warp import ReferenceWarp, Warped, stretched
from latentsync.recipe.networks import UNetConfig


class PooledGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics run over all frames of a video, while the frames lie in the batch.

    `LipUNet.forward` sets `frames`; it is not part of the state dict.
    """

    frames: int = 1

    def forward(self, images: Tensor) -> Tensor:
        if self.frames == 1:
            return super().forward(images)
        video = super().forward(batch_to_frames(images, frames=self.frames))
        return frames_to_batch(video)


class PerFrameGroupNorm(nn.GroupNorm):
    """GroupNorm that takes a video and keeps each frame's statistics to itself."""

    def forward(self, video: Tensor) -> Tensor:
        return batch_to_frames(super().forward(frames_to_batch(video)), frames=video.shape[2])


class NoMotion(nn.Module):
    """Stands where a temporal transformer would be and changes nothing."""

    def forward(self, images: Tensor, num_frames: int = 1) -> Tensor:
        return images


class LipUNet(nn.Module):
    """Predicts the noise in the latents of a window of frames, conditioned on speech.

    Its state dict has diffusers' own keys. One instance runs one forward pass at a time.
    """

    def __init__(self, network: nn.Module, config: UNetConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.adapter: AudioAdapter | None = None
        if config.adapter_dim:
            self.adapter = AudioAdapter(states_dim=config.audio_dim, dim=config.adapter_dim)
        self.warp: ReferenceWarp | None = None
        if config.warp_widths:
            self.warp = ReferenceWarp(config.warp_widths, tokens_dim=config.adapter_dim)
        self.residual: nn.Conv2d | None = None
        if config.reference_residual:
            self.residual = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)
            # A network that gets a residual afterwards predicts at first what it did without; behind a warp a
            # new one predicts the warped reference, which is a mouth already.
            (nn.init.dirac_ if config.warp_widths else nn.init.zeros_)(self.residual.weight)
            nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]
        self._pooled_norms = [module for module in network.modules() if isinstance(module, PooledGroupNorm)]
        keep_network_keys(self)

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        """Predict (b 4 f h w) from `sample` (b 13 f h w), `timesteps` (b,) and `audio` (b·f n d).

        Raises:
            ShapeError: an axis does not fit the configuration, or audio and frames differ in number.
        """
        expect_axes(sample, "b c f h w", c=self.config.in_channels)
        batch, _, frames, _, _ = sample.shape
        expect_axes(timesteps, "b", b=batch)
        expect_axes(audio, "b n d", b=batch * frames, d=self.config.audio_dim)
        if self.config.motion and frames > self.config.motion_max_frames:
            raise ValueError(f"window of {frames} frames exceeds {self.config.motion_max_frames}")
        for norm in self._pooled_norms:
            norm.frames = frames
        summary: Tensor | None = None
        if self.adapter is not None:
            audio, summary = self.adapter(audio)
        predicted: Tensor
        if self.config.motion:
            (predicted,) = self.network(sample, timesteps, audio, return_dict=False)  # b c f h w
        else:
            images = frames_to_batch(sample)  # b·f c h w
            timesteps = timesteps.repeat_interleave(frames)
            (predicted,) = self.network(images, timesteps, audio, class_labels=summary, return_dict=False)
            predicted = batch_to_frames(predicted, frames=frames)
        if self.residual is not None:
            reference = frames_to_batch(sample[:, -self.config.latent_channels :])  # b·f c h w
            predicted = predicted + batch_to_frames(self.residual(reference), frames=frames)
        return predicted

    def warp_reference(self, references_pm1: Tensor, known: Tensor, audio: Tensor) -> Warped:
        """Warp windows of references (n 3 h w) to the frames of which `known` (n k h w) is seen.

        Args:
            audio: (n t d) as for `forward`.

        Raises:
            ValueError: the network has nothing to warp with.
        """
        if self.warp is None or self.adapter is None:
            raise ValueError("this network takes references as they are: it has no warp_widths")
        warped: Warped = self.warp(references_pm1, known, self.adapter(audio)[0])
        return warped

    def warp_for(self, audio: Tensor, guidance: float = 1.0) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What `condition` warps references with, for the speech (n t d); None where nothing is warped.

        Args:
            guidance: as for `denoise`: above 1 the flow is stretched away from that for silence (zeros).
        """
        if self.warp is None:
            return None

        def warp(references: Tensor, known: Tensor) -> Tensor:
            warped = self.warp_reference(references, known, audio)
            if guidance > 1:
                silent = self.warp_reference(references, known, torch.zeros_like(audio))
                warped = stretched(references, warped, silent, guidance)
            return warped.pictures

        return warp

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in training: activations inside the blocks are computed again."""
        self.network.enable_gradient_checkpointing()  # type: ignore[operator]


def build_unet(config: UNetConfig) -> LipUNet:
    """Build the network that `config` describes, with weights drawn from torch's global generator.

    The last convolution and the output projection of every temporal transformer start at zero, so that a new
    network predicts zero and treats each frame alone. On `torch.device("meta")` nothing is allocated.

    Source: compatibility with the released weights: ResNet blocks and the output pool their statistics over
    the frames, the temporal transformers do not. `conv_in` is not zero (ours, because nothing could be learnt
    from the latents in the first steps).
    """
    make_torchvision_importable()
    from diffusers import UNet2DConditionModel, UNetMotionModel

    kind = "Motion" if config.motion else "2D"
    sizes: dict[str, Any] = dict(
        in_channels=config.in_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
        down_block_types=tuple(
            f"{'CrossAttn' if attends else ''}DownBlock{kind}" for attends in config.attention_levels
        ),
        up_block_types=tuple(
            f"{'CrossAttn' if attends else ''}UpBlock{kind}" for attends in reversed(config.attention_levels)
        ),
    )
    network: Any
    if config.motion:
        network = UNetMotionModel(
            **sizes,
            num_attention_heads=config.attention_head_dim,
            motion_num_attention_heads=config.attention_head_dim,
            motion_max_seq_length=config.motion_max_frames,
            use_motion_mid_block=False,  # as the released ones
        )
        if config.motion_modules == "decoder":
            for block in network.down_blocks:
                block.motion_modules = nn.ModuleList(NoMotion() for _ in block.motion_modules)
    else:
        network = UNet2DConditionModel(
            **sizes,
            attention_head_dim=config.attention_head_dim,
            class_embed_type="projection" if config.adapter_dim else None,  # the summary joins the timestep
            projection_class_embeddings_input_dim=config.adapter_dim or None,
        )
    if config.norm_over == "window":
        _exchange_norms(network)
    _start_at_zero(network)
    return LipUNet(network, config)


def _exchange_norms(network: nn.Module) -> None:
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    owners: list[tuple[nn.Module, str, type[nn.GroupNorm]]] = [(network, "conv_norm_out", PooledGroupNorm)]
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            owners += [(module, "norm1", PooledGroupNorm), (module, "norm2", PooledGroupNorm)]
        elif isinstance(module, AnimateDiffTransformer3D):
            owners.append((module, "norm", PerFrameGroupNorm))
    for owner, name, norm_type in owners:
        norm: nn.GroupNorm = getattr(owner, name)
        exchanged = norm_type(norm.num_groups, norm.num_channels, eps=norm.eps)
        exchanged.weight, exchanged.bias = norm.weight, norm.bias
        setattr(owner, name, exchanged)


def _start_at_zero(network: Any) -> None:
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    temporal = [part for part in network.modules() if isinstance(part, AnimateDiffTransformer3D)]
    for outlet in (network.conv_out, *(transformer.proj_out for transformer in temporal)):
        nn.init.zeros_(outlet.weight)
        nn.init.zeros_(outlet.bias)
