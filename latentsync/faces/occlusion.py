"""The occlusion network: where something is in front of the face in an aligned crop."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from latentsync.axes import expect_axes, to_pm1
from latentsync.faces.bundled import FOLDER, load_bundled
from latentsync.types import FrameImage

INPUT_PX = 96
BUNDLED = FOLDER / "occlusion.safetensors"


class _Layer(nn.Module):
    """A 3x3 convolution with its norm; `stride` 2 halves the picture."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, pictures: Tensor) -> Tensor:
        return functional.silu(self.norm(self.conv(pictures)))


class OcclusionNet(nn.Module):
    """Gives each pixel of an aligned face a logit for "something is in front of the face here".

    Source: ours; a U-Net (Ronneberger et al. 2015) of three levels behind a 4x4 pixel fold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), _Layer(48, 32), _Layer(32, 32))  # 24 px
        self.down = nn.ModuleList(
            [
                nn.Sequential(_Layer(32, 64, stride=2), _Layer(64, 64)),  # 12 px
                nn.Sequential(_Layer(64, 96, stride=2), _Layer(96, 96), _Layer(96, 96)),  # 6 px
            ]
        )
        self.up = nn.ModuleList([_Layer(96 + 64, 64), _Layer(64 + 32, 32)])
        self.to_logits = nn.Sequential(nn.Conv2d(32, 16, 3, 1, 1), nn.PixelShuffle(4))

    def forward(self, pictures_pm1: Tensor) -> Tensor:
        """(n 3 96 96) RGB in -1..1 -> logits (n 96 96)."""
        expect_axes(pictures_pm1, "n c h w", c=3, h=INPUT_PX, w=INPUT_PX)
        features = [self.stem(pictures_pm1)]
        for level in self.down:
            features.append(level(features[-1]))
        hidden = features.pop()
        for level in self.up:
            hidden = level(torch.cat([functional.interpolate(hidden, scale_factor=2.0), features.pop()], 1))
        return torch.as_tensor(self.to_logits(hidden)[:, 0])


class OcclusionFinder:
    """Our network, ready to use on aligned crops."""

    def __init__(self, net: OcclusionNet) -> None:
        self._net = net.eval()
        for layer in net.modules():
            if isinstance(layer, _Layer) and isinstance(layer.norm, nn.BatchNorm2d):
                layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()

    @torch.inference_mode()
    def find(self, crop_u8: FrameImage) -> NDArray[np.float32]:
        """How sure it is, 0..1, that something is in front of the face: (96 96) over the crop (h w c)."""
        small = crop_u8
        if len(crop_u8) != INPUT_PX:
            how = cv2.INTER_AREA if len(crop_u8) > INPUT_PX else cv2.INTER_LINEAR
            small = np.asarray(cv2.resize(crop_u8, (INPUT_PX, INPUT_PX), interpolation=how), np.uint8)
        picture = torch.from_numpy(small).permute(2, 0, 1)[None]
        return np.asarray(self._net(to_pm1(picture))[0].sigmoid().numpy(), np.float32)


def load_occlusion(path: Path | None = None) -> OcclusionFinder:
    """Our occlusion network with the weights in `path`, or those in the package.

    Raises:
        WeightsError: the file is missing or holds something else.
    """
    net = load_bundled(OcclusionNet(), path or BUNDLED, name="occlusion", recipe="compact/occlusion")
    return OcclusionFinder(net)
