"""SyncNet v2, the network that papers measure lip sync with; for inference only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from latentsync.axes import expect_axes

CLIP_FRAMES = 5
PICTURE_PX = 224
CEPSTRA = 13
SPEECH_STEPS = 20  # 0.2 s, as long as the frames
HIDDEN = 512
EMBEDDING = 1024

AUDIO_POOLS: dict[int, tuple[Any, ...]] = {  # index in the file: kernel, stride
    3: (1, 1),
    7: (3, (1, 2)),
    17: (3, 2),
}
AUDIO_CONVS: dict[int, tuple[Any, ...]] = {  # index in the file: channels in, channels out, kernel, padding
    0: (1, 64, 3, 1),
    4: (64, 192, 3, 1),
    8: (192, 384, 3, 1),
    11: (384, 256, 3, 1),
    14: (256, 256, 3, 1),
    18: (256, HIDDEN, (5, 4), 0),
}
LIP_CONVS: dict[
    int, tuple[Any, ...]
] = {  # index in the file: channels in, channels out, kernel, stride, padding
    0: (3, 96, (5, 7, 7), (1, 2, 2), 0),
    4: (96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
    8: (256, 256, (1, 3, 3), 1, (0, 1, 1)),
    11: (256, 256, (1, 3, 3), 1, (0, 1, 1)),
    14: (256, 256, (1, 3, 3), 1, (0, 1, 1)),
    18: (256, HIDDEN, (1, 6, 6), 1, 0),
}
LIP_POOLS: dict[int, Any] = {3: 0, 7: (0, 1, 1), 17: 0}  # index in the file: padding


class SyncNetV2(nn.Module):
    """Two towers whose raw vectors lie near each other where lips and speech fit. Keys are the file's."""

    def __init__(self) -> None:
        super().__init__()
        audio: dict[int, Sequence[nn.Module]] = {
            index: (nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU())
            for index, (before, after, kernel, padding) in AUDIO_CONVS.items()
        }
        audio |= {index: (nn.MaxPool2d(kernel, stride),) for index, (kernel, stride) in AUDIO_POOLS.items()}
        lips: dict[int, Sequence[nn.Module]] = {
            index: (nn.Conv3d(before, after, kernel, stride, padding), nn.BatchNorm3d(after), nn.ReLU())
            for index, (before, after, kernel, stride, padding) in LIP_CONVS.items()
        }
        lips |= {
            index: (nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding),) for index, padding in LIP_POOLS.items()
        }
        self.netcnnaud, self.netfcaud = _in_order(audio), _head()
        self.netcnnlip, self.netfclip = _in_order(lips), _head()

    def embed_clips(self, clips: Tensor) -> Tensor:
        """Embed clips of five pictures (b 3 5 224 224), BGR in 0..255: (b 1024), of any length."""
        expect_axes(clips, "b c f h w", c=3, f=CLIP_FRAMES, h=PICTURE_PX, w=PICTURE_PX)
        vectors: Tensor = self.netfclip(self.netcnnlip(clips).flatten(1))
        return vectors

    def embed_speech(self, cepstra: Tensor) -> Tensor:
        """Embed windows of cepstra (b 1 13 20), of `audio.mfcc`: (b 1024), of any length."""
        expect_axes(cepstra, "b c d t", c=1, d=CEPSTRA, t=SPEECH_STEPS)
        vectors: Tensor = self.netfcaud(self.netcnnaud(cepstra).flatten(1))
        return vectors


def _in_order(layers: dict[int, Sequence[nn.Module]]) -> nn.Sequential:
    return nn.Sequential(*(layer for index in sorted(layers) for layer in layers[index]))


def _head() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(HIDDEN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, EMBEDDING)
    )
