"""HyperIQA: how good a picture looks, by a network whose last layers are made for each picture."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable

PICTURE_PX = 224
WIDTHS = (224, 112, 56, 28, 14)  # of the small network that is made for each picture, but for its one output
_SEEN = 112  # channels that its weights are made from
_SIDE = 7  # of the last feature map
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class _Backbone(nn.Module):
    """ResNet-50 that also summarises each of its four stages, the finer ones for local faults."""

    def __init__(self) -> None:
        super().__init__()
        make_torchvision_importable()
        from torchvision.models import resnet50

        resnet = resnet50(weights=None)
        self.conv1: nn.Module = resnet.conv1
        self.bn1: nn.Module = resnet.bn1
        for stage in range(1, 5):
            self.add_module(f"layer{stage}", getattr(resnet, f"layer{stage}"))
        self.lda1_pool, self.lda1_fc = _local_pool(256, 16), nn.Linear(1024, 16)
        self.lda2_pool, self.lda2_fc = _local_pool(512, 32), nn.Linear(512, 16)
        self.lda3_pool, self.lda3_fc = _local_pool(1024, 64), nn.Linear(256, 16)
        self.lda4_fc = nn.Linear(2048, WIDTHS[0] - 3 * 16)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature map (b 2048 7 7), and the summary (b 224)."""
        hidden = nn.functional.relu(self.bn1(self.conv1(pictures)))
        hidden = nn.functional.max_pool2d(hidden, 3, 2, 1)
        summaries = []
        for stage in range(1, 5):
            hidden = getattr(self, f"layer{stage}")(hidden)
            pooled = getattr(self, f"lda{stage}_pool")(hidden) if stage < 4 else hidden.mean((2, 3))
            summaries.append(getattr(self, f"lda{stage}_fc")(pooled.flatten(1)))
        return hidden, torch.cat(summaries, 1)


class HyperIQA(nn.Module):
    """Scores pictures, 0 bad to 100 good. Keys are those of the file `koniq_pretrained.pkl`.

    Source: Su et al. 2020, as trained on KonIQ-10k, which the paper filters its clips with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.res = _Backbone()
        layers: list[nn.Module] = []
        for before, after in ((2048, 1024), (1024, 512), (512, _SEEN)):
            layers += [nn.Conv2d(before, after, 1), nn.ReLU()]
        self.conv1 = nn.Sequential(*layers)
        for layer, (before, after) in enumerate(pairwise(WIDTHS), start=1):
            self.add_module(f"fc{layer}w_conv", nn.Conv2d(_SEEN, before * after // _SIDE**2, 3, padding=1))
            self.add_module(f"fc{layer}b_fc", nn.Linear(_SEEN, after))
        self.fc5w_fc, self.fc5b_fc = nn.Linear(_SEEN, WIDTHS[-1]), nn.Linear(_SEEN, 1)

    def forward(self, pictures_unit: Tensor) -> Tensor:
        """Scores (b,) of pictures (b 3 224 224), RGB in 0..1."""
        expect_axes(pictures_unit, "b c h w", c=3, h=PICTURE_PX, w=PICTURE_PX)
        mean, std = (pictures_unit.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        features, summary = self.res((pictures_unit - mean) / std)
        seen = self.conv1(features)  # b c h w
        whole = seen.mean((2, 3))  # b c
        hidden = summary[:, None]  # b 1 d
        for layer, (before, after) in enumerate(pairwise(WIDTHS), start=1):
            weights = getattr(self, f"fc{layer}w_conv")(seen).reshape(-1, after, before)
            biases = getattr(self, f"fc{layer}b_fc")(whole)[:, None]
            hidden = torch.sigmoid(hidden @ weights.mT + biases)
        scores: Tensor = (hidden * self.fc5w_fc(whole)[:, None]).sum(-1) + self.fc5b_fc(whole)
        return scores[:, 0]


def _local_pool(channels: int, kept: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(_SIDE, _SIDE))
