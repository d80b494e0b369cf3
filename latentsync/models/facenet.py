"""FaceNet: Inception-ResNet v1, which turns a face into a vector that tells people apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import expect_axes

FACE_PX = 160
WIDTH, PEOPLE = 512, 8631  # of an embedding; in the classifier that it was trained with
EPSILON = 0.001

Kernel = int | tuple[int, int]


class _Layer(NamedTuple):
    """One convolution of a branch, with BatchNorm and ReLU behind it."""

    channels: int
    kernel: Kernel = 1
    stride: int = 1
    padding: Kernel = 0


class _Convolution(nn.Module):
    """A convolution, BatchNorm and ReLU; the names are those of the file."""

    def __init__(self, before: int, layer: _Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, layer.channels, layer.kernel, layer.stride, layer.padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.channels, eps=EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(images)))


def _branch(before: int, layers: tuple[_Layer, ...]) -> nn.Module:
    found: list[nn.Module] = []
    for layer in layers:
        found.append(_Convolution(before, layer))
        before = layer.channels
    return found[0] if len(found) == 1 else nn.Sequential(*found)


class _Residual(nn.Module):
    """Branches side by side, whose joined and scaled result is added to what came in."""

    def __init__(
        self, width: int, branches: tuple[tuple[_Layer, ...], ...], scale: float, *, is_last: bool = False
    ) -> None:
        super().__init__()
        self.count, self.scale, self.is_last = len(branches), scale, is_last
        for index, layers in enumerate(branches):
            self.add_module(f"branch{index}", _branch(width, layers))
        self.conv2d = nn.Conv2d(sum(layers[-1].channels for layers in branches), width, 1)

    def forward(self, images: Tensor) -> Tensor:
        joined = torch.cat([self.get_submodule(f"branch{index}")(images) for index in range(self.count)], 1)
        added: Tensor = images + self.scale * self.conv2d(joined)
        return added if self.is_last else functional.relu(added)


class _Reduction(nn.Module):
    """Branches side by side that halve the picture, and a pooling beside them."""

    def __init__(self, width: int, branches: tuple[tuple[_Layer, ...], ...]) -> None:
        super().__init__()
        self.count = len(branches)
        for index, layers in enumerate(branches):
            self.add_module(f"branch{index}", _branch(width, layers))

    def forward(self, images: Tensor) -> Tensor:
        halved = [self.get_submodule(f"branch{index}")(images) for index in range(self.count)]
        return torch.cat([*halved, functional.max_pool2d(images, 3, 2)], 1)


_BLOCK_35 = (
    (_Layer(32),),
    (_Layer(32), _Layer(32, 3, padding=1)),
    (_Layer(32), _Layer(32, 3, padding=1), _Layer(32, 3, padding=1)),
)
_BLOCK_17 = (
    (_Layer(128),),
    (_Layer(128), _Layer(128, (1, 7), padding=(0, 3)), _Layer(128, (7, 1), padding=(3, 0))),
)
_BLOCK_8 = (
    (_Layer(192),),
    (_Layer(192), _Layer(192, (1, 3), padding=(0, 1)), _Layer(192, (3, 1), padding=(1, 0))),
)
_REDUCTION_6A = (
    (_Layer(384, 3, 2),),
    (_Layer(192), _Layer(192, 3, padding=1), _Layer(256, 3, 2)),
)
_REDUCTION_7A = (
    (_Layer(256), _Layer(384, 3, 2)),
    (_Layer(256), _Layer(256, 3, 2)),
    (_Layer(256), _Layer(256, 3, padding=1), _Layer(256, 3, 2)),
)


class FaceNet(nn.Module):
    """Embeds faces; those of one person lie near each other.

    Source: Schroff et al. 2015 and Szegedy et al. 2016, in the sizes and under the names of the file
    20180402-114759-vggface2.pt of facenet-pytorch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Convolution(3, _Layer(32, 3, 2))
        self.conv2d_2a = _Convolution(32, _Layer(32, 3))
        self.conv2d_2b = _Convolution(32, _Layer(64, 3, padding=1))
        self.conv2d_3b = _Convolution(64, _Layer(80))
        self.conv2d_4a = _Convolution(80, _Layer(192, 3))
        self.conv2d_4b = _Convolution(192, _Layer(256, 3, 2))
        self.repeat_1 = nn.Sequential(*(_Residual(256, _BLOCK_35, 0.17) for _ in range(5)))
        self.mixed_6a = _Reduction(256, _REDUCTION_6A)
        self.repeat_2 = nn.Sequential(*(_Residual(896, _BLOCK_17, 0.10) for _ in range(10)))
        self.mixed_7a = _Reduction(896, _REDUCTION_7A)
        self.repeat_3 = nn.Sequential(*(_Residual(1792, _BLOCK_8, 0.20) for _ in range(5)))
        self.block8 = _Residual(1792, _BLOCK_8, 1.0, is_last=True)
        self.last_linear = nn.Linear(1792, WIDTH, bias=False)
        self.last_bn = nn.BatchNorm1d(WIDTH, eps=EPSILON)
        self.logits = nn.Linear(WIDTH, PEOPLE)  # in the file, and not used

    def forward(self, faces_pm1: Tensor) -> Tensor:
        """Faces (n 3 160 160) in -1..1, RGB, to vectors (n 512) of length 1."""
        expect_axes(faces_pm1, "n c h w", c=3, h=FACE_PX, w=FACE_PX)
        hidden = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(faces_pm1)))
        hidden = self.conv2d_3b(functional.max_pool2d(hidden, 3, 2))
        hidden = self.repeat_1(self.conv2d_4b(self.conv2d_4a(hidden)))
        hidden = self.repeat_2(self.mixed_6a(hidden))
        hidden = self.block8(self.repeat_3(self.mixed_7a(hidden)))  # n 1792 h w
        return functional.normalize(self.last_bn(self.last_linear(hidden.mean((2, 3)))))
