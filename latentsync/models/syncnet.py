"""The SyncNet: puts windows of frames and of speech into one space, where those that fit are near."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.errors import ShapeError
from latentsync.recipe.networks import ATTENTION_HEADS, Factor, SyncNetConfig, TowerConfig

MEL_BANDS = 80
NORM_EPS = 1e-6  # of the released networks; PyTorch's default is 1e-5
WAV2LIP_REPEATS = {"visual": (0, 2, 3, 2, 2, 2, 0), "audio": (2, 2, 2, 2, 2)}
WAV2LIP_KERNELS = {"visual": (7, 5, 3, 3, 3, 3, 3), "audio": (3, 3, 3, 3, 3)}
WAV2LIP_LEAK = 0.2


class ResNetBlock(nn.Module):
    """Two convolutions beside a shortcut, then a third that shrinks (rows, columns) by `factor`."""

    def __init__(
        self, in_channels: int, channels: int, factor: Factor, *, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None
        self.downsample_conv = nn.Conv2d(channels, channels, 3, stride=factor) if factor != 1 else None
        self.padding = _padding(factor)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.conv1(functional.silu(self.norm1(images)))
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        hidden = hidden + (images if self.conv_shortcut is None else self.conv_shortcut(images))
        if self.downsample_conv is not None:
            hidden = self.downsample_conv(functional.pad(hidden, self.padding))
        return hidden


class AttentionBlock(nn.Module):
    """Every position of a picture attends to every other; attention and feed-forward are diffusers'."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        make_torchvision_importable()
        from diffusers.models.attention import FeedForward
        from diffusers.models.attention_processor import Attention

        self.norm1 = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.conv_in = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.LayerNorm(channels)
        self.attn: Any = Attention(
            query_dim=channels, heads=ATTENTION_HEADS, dim_head=channels // ATTENTION_HEADS, bias=True
        )
        self.norm3 = nn.LayerNorm(channels)
        self.ff: Any = FeedForward(channels, activation_fn="geglu")
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv_in(self.norm1(images)).flatten(2).transpose(1, 2)  # b n c
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        positions: Tensor = tokens.transpose(1, 2).reshape(images.shape)  # b c h w
        mixed: Tensor = self.conv_out(positions)
        return images + mixed


class Tower(nn.Module):
    """Shrinks a picture to one vector without negative numbers."""

    is_checkpointing = False  # whether activations inside the blocks are computed again in the backward pass

    def __init__(self, config: TowerConfig, in_channels: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, config.channels[0], 3, padding=1)
        blocks: list[nn.Module] = []
        width = config.channels[0]
        for channels, factor, attends in zip(config.channels, config.factors, config.attends, strict=True):
            blocks.append(ResNetBlock(width, channels, factor, groups=groups, dropout=dropout))
            if attends:
                blocks.append(AttentionBlock(channels, groups=groups))
            width = channels
        self.down_blocks = nn.ModuleList(blocks)
        self.norm_out = nn.GroupNorm(groups, width, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv_in(images)
        for block in self.down_blocks:
            if self.is_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        # Without negative numbers no cosine is negative, and it can be taken for a probability.
        return functional.relu(self.norm_out(hidden))


class NormedConv(nn.Module):
    """A convolution and its BatchNorm; `is_residual` adds what came in."""

    def __init__(self, layer: nn.Conv2d, *, is_residual: bool = False, leak: float = WAV2LIP_LEAK) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))
        self.is_residual = is_residual
        self.leak = leak

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layers(images)
        if self.is_residual:
            hidden = hidden + images
        return functional.leaky_relu(hidden, self.leak)


class SyncNet(nn.Module):
    """Two towers. Embeddings have no negative entries, so the cosine of any two lies in 0..1."""

    def __init__(self, config: SyncNetConfig, *, visual: nn.Module, audio: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = visual
        self.audio_encoder = audio

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Embed windows of frames (b c h w), as `stack_frames` makes them: (b d) float32 of length 1."""
        expect_axes(frames, "b c h w", c=self.config.visual_channels)
        return self._embed(self.visual_encoder, frames)

    def embed_speech(self, mel: Tensor) -> Tensor:
        """Embed windows of speech (b 1 80 t): (b d) float32 of length 1."""
        expect_axes(mel, "b c d t", c=1, d=MEL_BANDS, t=self.config.mel_steps)
        return self._embed(self.audio_encoder, mel)

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embed windows of frames (b c h w) and of speech (b 1 80 t); their cosine says how well they fit."""
        return self.embed_frames(frames), self.embed_speech(mel)

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in training: activations inside the blocks are computed again.

        Raises:
            ValueError: the towers are Wav2Lip's, whose BatchNorm would count every batch twice.
        """
        if self.config.kind == "wav2lip":
            raise ValueError("a SyncNet of kind 'wav2lip' cannot be checkpointed")
        for tower in (self.visual_encoder, self.audio_encoder):
            tower.is_checkpointing = True  # type: ignore[assignment]

    def _embed(self, tower: nn.Module, images: Tensor) -> Tensor:
        vectors = tower(images)
        if vectors.shape[2:] != (1, 1):
            raise ShapeError(
                f"{tuple(images.shape[2:])} rows and columns shrink to {tuple(vectors.shape[2:])},"
                " expected (1, 1)"
            )
        return functional.normalize(vectors.flatten(1).float(), dim=1)  # squares overflow at half precision


def build_syncnet(config: SyncNetConfig) -> SyncNet:
    """Build the network that `config` describes, with weights drawn from torch's global generator.

    Source: compatible with the released SyncNets; "wav2lip" is a network beside them whose weights were never
    released: its number of parameters is the same, its strides between the stated sizes are ours.
    """
    if config.kind == "wav2lip":
        width = config.visual.channels[-1]
        return SyncNet(
            config,
            visual=_wav2lip_tower(config.visual, "visual", config.visual_channels, width),
            audio=_wav2lip_tower(config.audio, "audio", 1, width),
        )
    visual, audio = (
        Tower(tower, channels, groups=config.norm_groups, dropout=config.dropout)
        for tower, channels in ((config.visual, config.visual_channels), (config.audio, 1))
    )
    return SyncNet(config, visual=visual, audio=audio)


def stack_frames(video: Tensor, config: SyncNetConfig) -> Tensor:
    """Make of a window of video (b c f h w) the picture (b f·c h w) that a SyncNet sees, frame by frame.

    Where `config.is_lower_half` says so, the upper half of the rows is cut off.

    Args:
        video: RGB in -1..1 with a side of `config.resolution`, or scaled latents.
    """
    expect_axes(video, "b c f h w", c=config.frame_channels, f=config.frames)
    if config.space == "pixel":
        expect_axes(video, "b c f h w", h=config.resolution, w=config.resolution)
    stacked = video.transpose(1, 2).flatten(1, 2)  # b f·c h w
    return stacked[:, :, stacked.shape[2] // 2 :] if config.is_lower_half else stacked


def _padding(factor: Factor) -> tuple[int, int, int, int]:
    """Left, right, top, bottom: an axis that is not shrunk keeps its size."""
    # Right and bottom only, as the downsampling of Stable Diffusion's autoencoder; the rest is official.
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    if rows == 1:
        return 0, 1, 1, 1
    return (1, 1, 0, 1) if columns == 1 else (0, 1, 0, 1)


def _wav2lip_tower(
    config: TowerConfig, name: Literal["visual", "audio"], in_channels: int, width: int
) -> nn.Sequential:
    """Wav2Lip's tower: the first kernels are wide and barely padded, the last two leave one position."""
    blocks: list[nn.Module] = []
    before = in_channels
    for channels, factor, kernel, repeats in zip(
        config.channels, config.factors, WAV2LIP_KERNELS[name], WAV2LIP_REPEATS[name], strict=True
    ):
        padding = 1 if kernel == 5 else kernel // 2
        blocks.append(NormedConv(nn.Conv2d(before, channels, kernel, factor, padding)))
        blocks += [
            NormedConv(nn.Conv2d(channels, channels, 3, padding=1), is_residual=True) for _ in range(repeats)
        ]
        before = channels
    blocks.append(NormedConv(nn.Conv2d(before, width, 3, 2)))
    blocks.append(NormedConv(nn.Conv2d(width, width, 1), leak=0.0))
    return nn.Sequential(*blocks)
