"""`sync` with a trained Wav2Lip, the comparison of the paper's table 4: each frame by itself, from mel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.mel import mel_spectrogram
from latentsync.axes import frames_to_batch, to_levels, to_pm1
from latentsync.models.wav2lip import Wav2Lip, lower_half_out, mel_around
from latentsync.rates import MEL_COLUMNS_PER_S
from latentsync.types import FrameImage


class MelColumns:
    """The mel of one speech file, 80 columns a second, taken as a source of Whisper states is."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self.mel = mel_spectrogram(samples)  # d t

    def __len__(self) -> int:
        return self.mel.shape[1]

    def take(self, indices: Tensor) -> Tensor:
        """The columns (k 1 d) at the indices (k,)."""
        return self.mel[:, indices].T[:, None]

    def around(self, times_s: Sequence[float]) -> Tensor:
        """The 16 columns around the frames shown at `times_s`: (f 80 16)."""
        return mel_around(self.mel, [math.floor(time_s * MEL_COLUMNS_PER_S + 1e-4) for time_s in times_s])


@torch.inference_mode()
def draw_mouths(
    network: Wav2Lip, crops_u8: Sequence[FrameImage], mel: Tensor, mask: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """New crops (h w c), float32 in 0..255; the reference of each frame is the frame itself.

    Args:
        crops_u8: aligned, of the network's resolution.
        mel: (f 80 16) around each of them.
        mask: (h w), 1 = kept, 0 = generated.

    Source: the inference of Prajwal et al. 2020, in the aligned crop and the mask that all models here share.
    """
    weight = next(network.parameters())
    images = torch.from_numpy(np.stack(crops_u8)).permute(0, 3, 1, 2)  # f c h w
    video = to_pm1(images.to(weight)).movedim(0, 1)[None]  # b c f h w
    made = network(lower_half_out(video), video, mel[None].to(weight))
    kept = torch.from_numpy(mask).to(weight)
    faces = frames_to_batch(made * (1 - kept) + video * kept)  # f c h w
    return [to_levels(face).permute(1, 2, 0).numpy() for face in faces.float().cpu()]
