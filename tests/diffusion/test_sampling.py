from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.sampling import build_scheduler, denoise, one_step_clean
from latentsync.types import PredictionType

SALT = "golden-a"


class Oracle(nn.Module):
    """Stands for a network that always knows the clean latents."""

    def __init__(self, clean: Tensor, prediction_type: PredictionType) -> None:
        super().__init__()
        self.clean = clean
        self.prediction_type = prediction_type
        self.audio_rows: list[Tensor] = []

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        self.audio_rows.append(audio)
        kept = build_scheduler().alphas_cumprod[timesteps][:, None, None, None, None]
        noise = (sample[:, :4] - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * self.clean
        return {"epsilon": noise, "v_prediction": velocity, "sample": self.clean.expand_as(noise)}[
            self.prediction_type
        ]


@pytest.fixture
def conditioning() -> Conditioning:
    plane = torch.zeros(1, 4, 3, 2, 2)
    return Conditioning(mask=plane[:, :1], masked=plane, reference=plane)


def test_twenty_steps_of_the_released_schedule() -> None:
    scheduler = build_scheduler()
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(951, 0, -50))
    assert scheduler.final_alpha_cumprod.item() == pytest.approx(0.99915, abs=1e-5)


def test_one_step_equals_reference(golden: Path, synthetic: ModuleType) -> None:
    noisy, noise = (
        synthetic.synthetic_input(f"onestep/{name}", (2, 4, 16, 8, 8), SALT) for name in ("xt", "noise")
    )
    clean = one_step_clean(noisy, noise, torch.tensor([700, 30]), build_scheduler())
    expected = load_file(golden / "one_step.safetensors")["z0"]
    assert (clean - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_network_is_believed(prediction_type: PredictionType, conditioning: Conditioning) -> None:
    clean, noise = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 4, 3, 2, 2)
    scheduler = build_scheduler(prediction_type, "trailing")
    oracle = Oracle(clean, prediction_type)
    timesteps = torch.tensor([600])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    predicted = oracle(noisy, timesteps, torch.zeros(3, 5, 8))
    torch.testing.assert_close(
        one_step_clean(noisy, predicted, timesteps, scheduler), clean, atol=1e-4, rtol=1e-4
    )
    latents = denoise(oracle, scheduler, noise, conditioning, torch.zeros(3, 5, 8), steps=3, guidance=1)
    torch.testing.assert_close(latents, clean, atol=1e-3, rtol=1e-3)


def test_guidance_runs_without_audio_first(conditioning: Conditioning) -> None:
    oracle = Oracle(torch.zeros(1, 4, 3, 2, 2), "epsilon")
    audio = torch.ones(3, 5, 8)
    noise = torch.randn(1, 4, 3, 2, 2)
    denoise(oracle, build_scheduler(), noise, conditioning, audio, steps=1, guidance=2)
    denoise(oracle, build_scheduler(), noise, conditioning, audio, steps=1, guidance=1)
    guided, plain = oracle.audio_rows
    assert torch.equal(guided, torch.cat([torch.zeros_like(audio), audio]))
    assert torch.equal(plain, audio)
