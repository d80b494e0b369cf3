"""The VideoMAE-v2 encoder, whose features say how a face moves, and TREPA's distance between two videos."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from latentsync.axes import expect_axes, frames_to_batch
from latentsync.recipe.networks import VideoEncoderConfig

NORM_EPS = 1e-6


class PatchEmbedding(nn.Module):
    """Cuts a video into tokens."""

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        size = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.width, size, stride=size)

    def forward(self, video: Tensor) -> Tensor:
        tokens: Tensor = self.proj(video).flatten(2).transpose(1, 2)  # b n d
        return tokens


class SelfAttention(nn.Module):
    """Every token attends to every other; queries and values have a bias, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # A bias of the keys would add the same to all scores of a query, and the softmax takes that out.
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        joined = functional.linear(tokens, self.qkv.weight, bias)  # b n 3·d
        query, key, value = joined.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        changed: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return changed


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each normalised before and added to what came in."""

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = FeedForward(config.width, config.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        changed: Tensor = self.mlp(self.norm2(tokens))
        return tokens + changed


class VideoEncoder(nn.Module):
    """VideoMAE-v2 with its released keys. The head that names classes is kept, but not used."""

    is_checkpointing = False

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.fc_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.head = nn.Linear(config.width, config.classes) if config.classes else None

    def features(self, video_pm1: Tensor) -> Tensor:
        """The features (b d) of windows of video (b 3 f h w) in -1..1, of any picture size.

        Source: the official TREPA: bicubic to 224 px without smoothing, 0..1, no mean or deviation taken out.
        """
        expect_axes(video_pm1, "b c f h w", c=3, f=self.config.frames)
        side = self.config.picture
        images = functional.interpolate(frames_to_batch(video_pm1), (side, side), mode="bicubic")
        # Bicubic sampling overshoots; the official code clamps, too.
        video_unit = (images / 2 + 0.5).clamp(0, 1)
        video_unit = video_unit.unflatten(0, (-1, self.config.frames)).movedim(1, 2)  # b c f h w
        tokens = self.patch_embed(video_unit.to(self.fc_norm.weight.dtype))
        tokens = tokens + _position_table(*tokens.shape[1:]).to(tokens)
        for block in self.blocks:
            if self.is_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        pooled: Tensor = self.fc_norm(tokens.mean(1))
        return pooled

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in training: activations inside the blocks are computed again."""
        self.is_checkpointing = True


def build_video_encoder(config: VideoEncoderConfig) -> VideoEncoder:
    """Build the encoder that `config` describes, with weights drawn from torch's global generator."""
    return VideoEncoder(config)


def trepa_distance(
    fake_pm1: Tensor,
    real_pm1: Tensor,
    features: Callable[[Tensor], Tensor],
    *,
    normalise: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """How differently two windows of video (b 3 f h w) in -1..1 move: a scalar that can be trained through.

    Args:
        fake_pm1: gradients flow into this one.
        real_pm1: no gradients flow into this one.
        features: (b d) of windows of video; `VideoEncoder.features`, or what stands for it.
        normalise: "mean" divides by the width of the features, as the official code does; "sum" is the
            squared distance of the paper, 1408 times as large with ViT-g.

    Source: the official `TREPALoss`; its weight of 10 belongs to "mean".
    """
    # To length 1 in float32: squares overflow at half precision.
    fake = functional.normalize(features(fake_pm1).float(), dim=1)
    with torch.no_grad():
        real = functional.normalize(features(real_pm1).float(), dim=1)
    # Both have length 1, so this is 2 - 2 cosines: the norm of the features does not count.
    squares = (fake - real) ** 2
    return squares.mean() if normalise == "mean" else squares.sum(1).mean()


@lru_cache(maxsize=2)
def _position_table(tokens: int, width: int) -> Tensor:
    """Sines at the even indices and cosines at the odd ones (n d); base 10000. Not in the released file."""
    rates = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angles = np.arange(tokens)[:, None] * rates
    angles[:, 0::2] = np.sin(angles[:, 0::2])
    angles[:, 1::2] = np.cos(angles[:, 1::2])
    return torch.from_numpy(angles.astype(np.float32))
