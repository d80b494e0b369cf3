from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.sampling import Shortcuts, build_scheduler, denoise, one_step_clean
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


class Counted(nn.Module):
    """Predicts nothing, and notes how many halves each step computed."""

    def __init__(self) -> None:
        super().__init__()
        self.halves: list[int] = []

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        self.halves.append(len(sample))
        return torch.zeros_like(sample[:, :4])


def test_guidance_in_an_interval(conditioning: Conditioning) -> None:
    unet, noise = Counted(), torch.randn(1, 4, 3, 2, 2)
    shortcuts = Shortcuts(guided_from=0.25, guided_to=0.5)
    denoise(
        unet,
        build_scheduler(),
        noise,
        conditioning,
        torch.zeros(3, 5, 8),
        steps=8,
        guidance=2,
        shortcuts=shortcuts,
    )
    assert unet.halves == [1, 1, 2, 2, 1, 1, 1, 1]


def test_no_step_waits_for_the_device() -> None:
    plane = torch.zeros(1, 4, 3, 2, 2, device="meta")
    given = Conditioning(mask=plane[:, :1], masked=plane, reference=plane)
    audio = torch.zeros(3, 5, 8, device="meta")
    # A tensor without values cannot be waited for: reading one on the CPU would raise.
    latents = denoise(Counted(), build_scheduler(), plane, given, audio, steps=4, guidance=2)
    assert latents.device.type == "meta"


def test_latents_keep_more_digits_than_the_network(conditioning: Conditioning) -> None:
    seen: list[torch.dtype] = []

    class Coarse(nn.Module):
        def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
            seen.append(sample.dtype)
            return sample[:, :4]

    coarse = Conditioning(
        mask=conditioning.mask.bfloat16(),
        masked=conditioning.masked.bfloat16(),
        reference=conditioning.reference.bfloat16(),
    )
    noise = torch.randn(1, 4, 3, 2, 2)
    latents = denoise(Coarse(), build_scheduler(), noise, coarse, torch.zeros(3, 5, 8), steps=2, guidance=1)
    assert seen == [torch.bfloat16] * 2 and latents.dtype == torch.float32
