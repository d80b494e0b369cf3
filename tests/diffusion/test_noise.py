from __future__ import annotations

import pytest
import torch

from latentsync.diffusion.noise import mixed_noise, shared_noise

SHAPE = (2, 4, 16, 32, 32)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_shared_noise_is_the_same_in_every_frame() -> None:
    noise = shared_noise(SHAPE, generator())
    assert torch.equal(noise[:, :, 0], noise[:, :, 15])
    assert not torch.equal(noise[0], noise[1])


def test_shared_noise_does_not_depend_on_the_number_of_frames() -> None:
    short = shared_noise((2, 4, 3, 32, 32), generator())
    assert torch.equal(short[:, :, 0], shared_noise(SHAPE, generator())[:, :, 0])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_mixed_noise_has_unit_variance_and_the_stated_correlation(alpha: float) -> None:
    noise = mixed_noise(SHAPE, generator(), alpha=alpha)
    shared_variance = (noise[:, :, 0] * noise[:, :, 1]).mean().item()
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert shared_variance == pytest.approx(alpha**2 / (1 + alpha**2), abs=0.05)
