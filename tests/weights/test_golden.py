"""The networks, loaded from files as released, against the reference's own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.sampling import build_scheduler, denoise
from latentsync.models.unet import LipUNet
from latentsync.weights.released import unet_from_released

SALT = "golden-a"


@pytest.fixture
def golden_unet(
    golden_tensors: Callable[[str], dict[str, Tensor]], tmp_path: Path
) -> Callable[[str], LipUNet]:
    def load(case: str) -> LipUNet:
        torch.save({"global_step": 1, "state_dict": golden_tensors(case)}, tmp_path / "unet.pt")
        return unet_from_released(tmp_path / "unet.pt")

    return load


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("case", ["unet_motion_small", "unet_motion_small_tail5", "unet_plain_small"])
def test_unet(case: str, golden: Path, synthetic: ModuleType, golden_unet: Callable[[str], LipUNet]) -> None:
    facts = json.loads((golden / f"{case}.json").read_text())
    sample = synthetic.synthetic_input(f"{case}/sample", facts["sample_shape"], SALT)
    audio = synthetic.synthetic_input(f"{case}/audio", facts["audio_shape"], SALT)
    with torch.no_grad():
        predicted = golden_unet(case)(sample, torch.tensor(facts["timesteps"]), audio)
    assert relative_error(predicted, load_file(golden / f"{case}.safetensors")["output"]) < 1e-4


def test_denoising_loop(golden: Path, synthetic: ModuleType, golden_unet: Callable[[str], LipUNet]) -> None:
    def made(name: str, *shape: int) -> Tensor:
        tensor: Tensor = synthetic.synthetic_input(f"loop/{name}", shape, SALT)
        return tensor

    fixed = Conditioning(
        mask=(made("mask", 1, 1, 16, 16, 16) > 0).float(),
        masked=made("masked", 1, 4, 16, 16, 16),
        reference=made("reference", 1, 4, 16, 16, 16),
    )
    noise = made("noise", 1, 4, 1, 16, 16).expand(1, 4, 16, 16, 16)
    seen: list[Tensor] = []
    scheduler = build_scheduler()
    latents = denoise(
        golden_unet("unet_motion_small"),
        scheduler,
        noise,
        fixed,
        made("audio", 16, 50, 384),
        steps=4,
        guidance=1.5,
        on_step=lambda step, noisy: seen.append(noisy),
    )
    expected = load_file(golden / "denoise_loop.safetensors")
    assert torch.equal(scheduler.timesteps, expected["timesteps"])
    assert relative_error(seen[0], expected["first_step"]) < 1e-4
    assert relative_error(latents, expected["latents"]) < 1e-4
