"""Wav2Lip's generator, each frame by itself, and the discriminator that judges its lower halves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import batch_to_frames, expect_axes, frames_to_batch
from latentsync.recipe.networks import Wav2LipConfig

MEL_BANDS = 80
Mode = Literal["train", "judge"]
MEL_STEPS = 16  # columns that one frame takes: 0.2 s


def mel_around(mel: Tensor, centres: Sequence[int]) -> Tensor:
    """The 16 columns of `mel` (80 t) around each of the centres: (f 80 16). The edge repeats.

    Source: Wav2Lip takes 0.2 s, with the frame in the middle.
    """
    reach = MEL_STEPS // 2
    columns = torch.as_tensor(centres)[:, None] + torch.arange(-reach, MEL_STEPS - reach)  # f t
    return mel[:, columns.clamp(0, mel.shape[1] - 1)].movedim(1, 0)  # f d t


def lower_half_out(video_pm1: Tensor) -> Tensor:
    """Paint the lower half of the frames (b c f h w) black, as the generator is given them."""
    rows = video_pm1.shape[3] // 2
    return torch.cat([video_pm1[:, :, :, :rows], torch.full_like(video_pm1[:, :, :, rows:], -1)], dim=3)


class _Block(nn.Module):
    """A convolution, BatchNorm and ReLU; with `is_residual` what came in is added before the ReLU."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, *, is_residual: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.BatchNorm2d(layer.out_channels)
        self.is_residual = is_residual

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.layer(images))
        return functional.relu(hidden + images if self.is_residual else hidden)


class _AudioSize(NamedTuple):
    """One shrinking block of the speech encoder: its width, stride (bands, columns) and padding."""

    channels: int
    stride: tuple[int, int]
    padding: int


class Wav2Lip(nn.Module):
    """Generates the lower half of faces from speech, the upper half and another frame of the person."""

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__()
        self.config = config
        widths, embedding = config.channels, config.most_channels
        last_side = config.resolution >> config.halvings
        levels: list[nn.Module] = [_Block(nn.Conv2d(6, widths[0], 7, padding=3))]
        for before, width in pairwise(widths):
            halved = _Block(nn.Conv2d(before, width, 3, 2, 1))
            levels.append(nn.Sequential(halved, _same(width), _same(width)))
        one_pixel = _Block(nn.Conv2d(widths[-1], embedding, last_side))
        levels.append(nn.Sequential(one_pixel, _Block(nn.Conv2d(embedding, embedding, 1))))
        self.face_encoder = nn.ModuleList(levels)
        self.speech_encoder = _speech_encoder(embedding)
        below = embedding  # what rises from one level to the next
        rising: list[nn.Module] = [_Block(nn.Conv2d(embedding, embedding, 1))]
        for width, skipped in _steps_up(widths, embedding):
            up = nn.ConvTranspose2d(below + skipped, width, 3, 2, 1, 1)
            if len(rising) == 1:
                up = nn.ConvTranspose2d(below + skipped, width, last_side)  # from one position
            rising.append(nn.Sequential(_Block(up), _same(width), _same(width)))
            below = width
        self.decoder = nn.ModuleList(rising)
        self.output = nn.Sequential(
            _Block(nn.Conv2d(below + widths[0], 2 * widths[0], 3, padding=1)), nn.Conv2d(2 * widths[0], 3, 1)
        )

    def forward(self, masked_pm1: Tensor, reference_pm1: Tensor, mel: Tensor) -> Tensor:
        """Draw frames (b 3 f h w) in -1..1.

        Args:
            masked_pm1: (b 3 f h w) the target frames with the lower half painted out.
            reference_pm1: (b 3 f h w) other frames of the same person.
            mel: (b f 80 16) the speech around each frame.
        """
        side = self.config.resolution
        expect_axes(masked_pm1, "b c f h w", c=3, h=side, w=side)
        frames = masked_pm1.shape[2]
        expect_axes(mel, "b f d t", f=frames, d=MEL_BANDS, t=MEL_STEPS)
        hidden = frames_to_batch(torch.cat([masked_pm1, reference_pm1], dim=1))  # b·f 6 h w
        seen = []
        for level in self.face_encoder:
            hidden = level(hidden)
            seen.append(hidden)
        hidden = self.speech_encoder(mel.flatten(0, 1)[:, None])  # b·f c 1 1
        for level in self.decoder:
            hidden = torch.cat([level(hidden), seen.pop()], dim=1)
        # The sigmoid is Wav2Lip's, whose pictures lie in 0..1.
        drawn: Tensor = torch.sigmoid(self.output(hidden)) * 2 - 1
        return batch_to_frames(drawn, frames=frames)


class LowerHalfDiscriminator(nn.Module):
    """Tells real lower halves of faces from generated ones, each frame by itself.

    Source: the visual quality discriminator of Prajwal et al. 2020, section 3.3, and `Wav2Lip_disc_qual` of
    the released code: widths 32, 64, 128, 256, 512, 512 at 96 px, no normalisation, leaky ReLU.
    """

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__()
        levels = range(config.halvings + 1)
        widths = [min(2 * config.first_channels << level, config.most_channels) for level in levels]
        layers = [_Convolution(3, widths[0], 7, padding=3)]
        for level, (before, width) in enumerate(pairwise(widths)):
            # A lower half is twice as wide as high: the first step halves the columns alone.
            stride = (1, 2) if level == 0 else (2, 2)
            kernel = 5 if level < 3 else 3
            layers.append(_Convolution(before, width, kernel, stride, kernel // 2))
            layers.append(_Convolution(width, width, kernel, padding=kernel // 2))
        last, side = widths[-1], config.resolution >> config.halvings
        layers += [_Convolution(last, last, side), _Convolution(last, last, 1)]
        self.layers = nn.ModuleList(layers)
        self.score = _Convolution(last, 1, 1)

    def forward(self, video_pm1: Tensor, *, mode: Mode) -> Tensor:
        """Score frames (b 3 f h w) in -1..1: logits (b·f), above 0 where they look real.

        Args:
            mode: "judge" passes gradients to the frames and none to the discriminator.
        """
        expect_axes(video_pm1, "b c f h w", c=3)
        images = frames_to_batch(video_pm1)  # b·f c h w
        hidden = (images[:, :, images.shape[2] // 2 :] + 1) / 2  # Wav2Lip's pictures lie in 0..1
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden, mode))
        scores: Tensor = self.score(hidden, mode)
        return scores.flatten()


class _Convolution(nn.Conv2d):
    """A convolution whose parameters are constants where it only judges."""

    def forward(self, images: Tensor, mode: Mode = "train") -> Tensor:
        weight, bias = self.weight, self.bias
        if mode == "judge":
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        convolved: Tensor = self._conv_forward(images, weight, bias)
        return convolved


def build_wav2lip(config: Wav2LipConfig) -> Wav2Lip:
    """Build the generator that `config` describes, with weights drawn from torch's global generator.

    Source: Prajwal et al. 2020, section 3: two encoders, and a decoder with a skip at every size. The number
    of residual blocks per size is ours.
    """
    return Wav2Lip(config)


def _same(width: int) -> _Block:
    return _Block(nn.Conv2d(width, width, 3, padding=1), is_residual=True)


def _speech_encoder(embedding: int) -> nn.Sequential:
    """Mel (b 1 80 16) to one vector (b c 1 1): 80x16, 27x16, 9x6, 3x3, 1x1."""
    sizes = (
        _AudioSize(embedding // 16, (1, 1), 1),
        _AudioSize(embedding // 8, (3, 1), 1),
        _AudioSize(embedding // 4, (3, 3), 1),
        _AudioSize(embedding // 2, (3, 2), 1),
        _AudioSize(embedding, (1, 1), 0),
    )
    blocks: list[nn.Module] = []
    before = 1
    for size in sizes:
        blocks.append(_Block(nn.Conv2d(before, size.channels, 3, size.stride, size.padding)))
        blocks += [_same(size.channels) for _ in range(2 if size.padding else 0)]
        before = size.channels
    return nn.Sequential(*blocks, _Block(nn.Conv2d(before, embedding, 1)))


def _steps_up(widths: tuple[int, ...], embedding: int) -> list[tuple[int, int]]:
    """From one position to full size: the width after each step, and of the skip that joins before it."""
    doubling = range(len(widths) - 1, 0, -1)
    return [(widths[-1], embedding), *((max(widths[k - 1], widths[0] * 4), widths[k]) for k in doubling)]
