"""`sync` with a Wav2Lip: each frame by itself, with the mel around its time, outside the mask as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.faces.align import mouth_mask
from latentsync.models.wav2lip import build_wav2lip, mel_around
from latentsync.recipe.networks import Wav2LipConfig
from latentsync.sync.generate import cut_crops, generate
from latentsync.sync.wav2lip import MelColumns, draw_mouths

from .test_generate import SIDE_PX, Shrink, model_of, sampling, tracked_frames


class Loudness(nn.Module):
    """Paints each frame in the mean of its mel, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.masked: list[Tensor] = []

    def forward(self, masked: Tensor, reference: Tensor, mel: Tensor) -> Tensor:
        self.masked.append(masked)
        level = mel.mean((2, 3))[:, None, :, None, None] / 4  # b 1 f 1 1
        return level.expand_as(masked).clone()


def test_the_mel_around_a_frame_is_that_of_its_time() -> None:
    samples = np.zeros(32000, np.float32)
    samples[16000:] = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)
    mel = MelColumns(samples)
    quiet, loud = mel.around([0.5, 1.5])
    assert quiet.mean() < -3.5 < 0 < loud.mean()
    assert torch.equal(mel.around([0.5])[0], mel_around(mel.mel, [40])[0])
    assert mel.take(torch.tensor([3, 4])).shape == (2, 1, 80) and len(mel) == 161


def test_only_the_mouth_changes_and_follows_the_speech() -> None:
    network, mask = Loudness(), mouth_mask(SIDE_PX)
    samples = np.zeros(32000, np.float32)
    samples[1600:] = np.random.default_rng(1).uniform(-0.5, 0.5, 30400)
    model = replace(model_of(network, Shrink()), wav2lip=network)
    cuts = cut_crops(tracked_frames("ff-fff"), fade_frames=0)
    made = list(generate(cuts, model, MelColumns(samples), mask, sampling()))
    assert [one.crop is None for one in made] == [False, False, True, False, False, False]
    for one in made:
        if one.crop is not None and one.cut.crop_u8 is not None:
            kept = np.abs(one.crop - one.cut.crop_u8)[mask == 1]
            assert kept.max() < 0.01
    first, last = (made[number].crop for number in (0, 5))
    assert first is not None and last is not None
    assert first[mask == 0].mean() < last[mask == 0].mean()  # silence at first
    assert all(masked[:, :, :, SIDE_PX // 2 :].eq(-1).all() for masked in network.masked)


def test_the_network_itself_draws_crops_of_its_size() -> None:
    network = build_wav2lip(Wav2LipConfig(resolution=48, first_channels=4, most_channels=32)).eval()
    mel = MelColumns(np.zeros(16000, np.float32)).around([0, 0.04, 0.08])
    made = draw_mouths(network, [np.full((48, 48, 3), 90, np.uint8)] * 3, mel, mouth_mask(48))
    assert len(made) == 3 and made[0].shape == (48, 48, 3)
    assert all(one.min() >= 0 and one.max() <= 255 for one in made)
