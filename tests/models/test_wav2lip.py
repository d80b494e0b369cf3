from __future__ import annotations

import pytest
import torch

from latentsync.errors import ShapeError
from latentsync.models.wav2lip import LowerHalfDiscriminator, build_wav2lip
from latentsync.recipe.networks import Wav2LipConfig

TINY = Wav2LipConfig(resolution=48, first_channels=4, most_channels=32)


def test_frames_come_out_as_large_as_they_went_in() -> None:
    network = build_wav2lip(TINY).eval()
    video = torch.rand(2, 3, 3, 48, 48) * 2 - 1
    made = network(video, video, torch.randn(2, 3, 80, 16))
    assert made.shape == video.shape
    assert made.abs().max() <= 1


def test_a_frame_depends_on_its_own_speech_alone() -> None:
    network = build_wav2lip(TINY).eval()
    video, mel = torch.rand(1, 3, 3, 48, 48), torch.randn(1, 3, 80, 16)
    made = network(video, video, mel)
    mel[0, 1] += 1
    changed = (network(video, video, mel) - made).abs().amax((0, 1, 3, 4))
    assert changed[1] > 0
    assert changed[0] == changed[2] == 0


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = build_wav2lip(TINY.replaced(resolution=96, first_channels=16, most_channels=512))
    assert (
        20e6 < sum(parameter.numel() for parameter in network.parameters()) < 40e6
    )  # Wav2Lip has 36 million


def test_the_discriminator_has_the_released_sizes() -> None:
    with torch.device("meta"):
        judge = LowerHalfDiscriminator(TINY.replaced(resolution=96, first_channels=16, most_channels=512))
    # Of `Wav2Lip_disc_qual`: output channels, kernel, stride.
    released = [(32, 7, (1, 1))]
    released += [(64, 5, (1, 2)), (64, 5, (1, 1)), (128, 5, (2, 2)), (128, 5, (1, 1))]
    released += [(256, 5, (2, 2)), (256, 5, (1, 1)), (512, 3, (2, 2)), (512, 3, (1, 1))]
    released += [(512, 3, (2, 2)), (512, 3, (1, 1)), (512, 3, (1, 1)), (512, 1, (1, 1))]
    assert [(it.out_channels, it.kernel_size[0], it.stride) for it in judge.layers] == released
    assert judge(torch.zeros(2, 3, 5, 96, 96, device="meta"), mode="train").shape == (10,)


def test_the_discriminator_sees_the_lower_half_alone_and_is_still_while_it_judges() -> None:
    torch.manual_seed(0)
    judge = LowerHalfDiscriminator(TINY)
    video = (torch.rand(1, 3, 2, 48, 48) * 2 - 1).requires_grad_()
    judged = judge(video, mode="judge")
    judged.sum().backward()
    assert video.grad is not None and video.grad[:, :, :, 24:].any() and not video.grad[:, :, :, :24].any()
    assert all(parameter.grad is None for parameter in judge.parameters())
    trained = judge(video.detach(), mode="train")
    torch.testing.assert_close(trained, judged)
    trained.sum().backward()
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution 97"):
        TINY.replaced(resolution=97)
    network = build_wav2lip(TINY)
    video = torch.rand(1, 3, 2, 48, 48)
    with pytest.raises(ShapeError, match="axis t"):
        network(video, video, torch.randn(1, 2, 80, 20))
