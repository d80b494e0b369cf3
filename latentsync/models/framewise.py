"""A small SyncNet that looks at each frame once: a network for pictures, then one over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import expect_axes
from latentsync.recipe.networks import FRAMEWISE_CONTEXT, FramewiseConfig


class PictureBlock(nn.Module):
    """Two convolutions beside a shortcut; the first halves the picture."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(pictures)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(pictures))


class OverTime(nn.Module):
    """Turns a run of frames (b c f) into one vector of length 1 for each window of `frames`: (b n d)."""

    def __init__(self, in_channels: int, config: FramewiseConfig) -> None:
        super().__init__()
        kernel = FRAMEWISE_CONTEXT + 1
        # Without padding, so that a window depends on its own frames only.
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(in_channels, config.width, kernel), nn.Conv1d(config.width, config.width, kernel)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(config.width) for _ in range(2)])
        self.dropout = nn.Dropout(config.dropout)
        self.last = nn.Conv1d(config.width, config.dimension, config.frames - 2 * FRAMEWISE_CONTEXT)

    def forward(self, run: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            run = self.dropout(functional.relu(norm(convolution(run))))
        # Squares overflow at half precision.
        return functional.normalize(self.last(run).float(), dim=1).transpose(1, 2)  # b n d


class FramewiseSyncNet(nn.Module):
    """Puts every window of a run of frames, and of Whisper states, into one space; the cosine lies in -1..1.

    Source: ours. The paper's network sees all frames of a window in one picture. Sharing the weights over the
    frames lets under an hour of video reach unseen people, and a run of n frames costs n pictures.
    """

    def __init__(self, config: FramewiseConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.rows, config.columns
        first = config.channels[0]
        blocks: list[nn.Module] = [
            nn.Conv2d(3, first, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        for before, channels in zip(config.channels, config.channels[1:], strict=False):
            blocks.append(PictureBlock(before, channels))
        for _ in config.channels:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        half = config.width // 2
        self.picture = nn.Sequential(
            *blocks,
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(config.channels[-1] * rows * columns, half),
        )
        # After the softmax all layers count equally at first.
        self.layer_weights = nn.Parameter(torch.zeros(config.whisper_states))
        self.layer_norm = nn.LayerNorm(config.whisper_dim)
        self.speech = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Conv1d(config.whisper_dim, config.speech_width, 4, stride=2, padding=1),
            nn.BatchNorm1d(config.speech_width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Conv1d(config.speech_width, half, 3, padding=1),
        )
        self.visual_over_time = OverTime(half, config)
        self.audio_over_time = OverTime(half, config)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Embed every window of runs of frames (b c f h w), -1..1, cut to the region: (b n d).

        A run of f frames has n = f - config.frames + 1 windows.
        """
        windows: Tensor = self.visual_over_time(self.look(frames))
        return windows

    def look(self, frames: Tensor) -> Tensor:
        """What each frame (b c f h w), as for `embed_frames`, comes to on its own: (b c f)."""
        expect_axes(frames, "b c f h w", c=3, h=self.config.rows, w=self.config.columns)
        pictures = frames.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        seen: Tensor = self.picture(pictures).unflatten(0, (len(frames), -1)).transpose(1, 2)
        return seen

    def forward(self, frames: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Embed every window of runs of frames and of Whisper states: (b n d) each."""
        return self.embed_frames(frames), self.embed_speech(states)

    def embed_speech(self, states: Tensor) -> Tensor:
        """Embed every window of Whisper states (b t n d), two a frame: (b n d) as for frames."""
        config = self.config
        expect_axes(states, "b t n d", n=config.whisper_states, d=config.whisper_dim)
        share = self.layer_weights.softmax(0)[:, None]
        mixed = 2 * (self.layer_norm(states) * share).sum(2).transpose(1, 2)  # b d t
        windows: Tensor = self.audio_over_time(self.speech(mixed))
        return windows


def build_framewise(config: FramewiseConfig) -> FramewiseSyncNet:
    """Build the network that `config` describes, with weights drawn from torch's global generator."""
    return FramewiseSyncNet(config)


def cut_region(crops: Tensor, config: FramewiseConfig) -> Tensor:
    """Cut and shrink aligned crops (f c h w) to what the network sees: (f c rows columns), same range.

    The mean over the pixels that fall together is taken, so that crops of any size look alike.
    """
    expect_axes(crops, "f c h w")
    rows, columns = crops.shape[2:]
    top, bottom, left, right = config.region_unit
    region = crops[
        :, :, round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)
    ]
    size = (config.rows, config.columns)
    return functional.interpolate(region.float(), size=size, mode="bilinear", antialias=True)
