from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latentsync.models.videomae import VideoEncoder, build_video_encoder, trepa_distance
from latentsync.recipe.networks import VideoEncoderConfig

TINY = VideoEncoderConfig(width=8, depth=2, heads=2, hidden=16, classes=0, picture=28, frames=4)


@pytest.fixture
def facts(golden: Path) -> Any:
    return json.loads((golden / "trepa_small.json").read_text())


@pytest.fixture
def small(facts: Any, synthetic: ModuleType) -> VideoEncoder:
    encoder = build_video_encoder(VideoEncoderConfig(width=96, depth=3, heads=6, hidden=418)).eval()
    assert {key: list(tensor.shape) for key, tensor in encoder.state_dict().items()} == facts["state_dict"]
    encoder.load_state_dict(synthetic.synthetic_state_dict(facts["state_dict"], facts["salt"]))
    return encoder


def test_golden(small: VideoEncoder, facts: Any, golden: Path, synthetic: ModuleType) -> None:
    fake, real = (
        synthetic.synthetic_input(f"trepa/{name}", (2, 3, 16, 64, 64), facts["salt"])
        for name in ("fake", "real")
    )
    expected = load_file(golden / "trepa_small.safetensors")["features_fake"]
    with torch.no_grad():
        features = small.features(fake)
        assert (features - expected).norm() / expected.norm() < 1e-4
        assert trepa_distance(fake, real, small.features).item() == pytest.approx(facts["loss"], rel=1e-4)
        squared = trepa_distance(fake, real, small.features, normalise="sum")
    assert squared.item() == pytest.approx(96 * facts["loss"], rel=1e-4)


def video(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 4, 20, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_checkpointing_keeps_the_gradient_of_the_picture() -> None:
    encoder = build_video_encoder(TINY)
    runs = []
    encoder.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))

    def gradient() -> torch.Tensor:
        fake = video(1).requires_grad_()
        trepa_distance(fake, video(2), encoder.features).backward()
        assert fake.grad is not None
        return fake.grad

    plain, once = gradient(), len(runs)
    encoder.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain)
    assert (once, len(runs) - once) == (2, 3)


def test_half_precision_does_not_round_the_distance_away() -> None:
    torch.manual_seed(0)
    encoder = build_video_encoder(TINY)
    with torch.no_grad():
        exact = trepa_distance(video(1), video(2), encoder.features)
        rounded = trepa_distance(video(1), video(2), encoder.to(torch.bfloat16).features)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.3)


def test_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="8 is not a multiple of 3"):
        VideoEncoderConfig(width=8, heads=3)
