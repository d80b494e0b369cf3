from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latentsync.errors import ShapeError
from latentsync.models.syncnet import SyncNet, build_syncnet, stack_frames
from latentsync.recipe.networks import SyncNetConfig, TowerConfig
from latentsync.weights.checkpoints import load_checkpoint, save_checkpoint
from tests.networks import PAPER_SYNCNET

TINY = PAPER_SYNCNET.replaced(
    visual=TowerConfig(channels=(8, 8, 8), factors=((1, 2), 4, 4), attention=(False, True, False)),
    audio=TowerConfig(channels=(8, 8), factors=((5, 4), (16, 4)), attention=()),
    frames=5,
    resolution=32,
    norm_groups=4,
)
WAV2LIP = PAPER_SYNCNET.replaced(
    visual=TowerConfig(
        channels=(32, 64, 128, 256, 512, 1024, 1024), factors=(1, (1, 2), 2, 2, 2, 2, 2), attention=()
    ),
    audio=TowerConfig(channels=(32, 64, 128, 256, 512), factors=(1, (3, 1), 3, (3, 2), 1), attention=()),
    frames=5,
    kind="wav2lip",
)


def tower_of(facts: dict[str, Any]) -> TowerConfig:
    return TowerConfig(
        channels=tuple(facts["block_out_channels"]),
        factors=tuple(tuple(f) if isinstance(f, list) else f for f in facts["downsample_factors"]),
        attention=tuple(bool(flag) for flag in facts["attn_blocks"]),
    )


def config_of(facts: dict[str, Any]) -> SyncNetConfig:
    visual = tower_of(facts["config"]["visual_encoder"])
    space, channels = ("latent", 4) if facts["image_shape"][2] == 32 else ("pixel", 3)
    return PAPER_SYNCNET.replaced(
        visual=visual,
        audio=tower_of(facts["config"]["audio_encoder"]),
        frames=facts["config"]["visual_encoder"]["in_channels"] // channels,
        space=space,  # type: ignore[arg-type]
        is_lower_half=space == "pixel",
    )


def windows(config: SyncNetConfig) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = config.resolution // 2
    frames = torch.rand(2, config.visual_channels, rows, config.resolution, generator=generator) * 2 - 1
    return frames, torch.randn(2, 1, 80, config.mel_steps, generator=generator)


@pytest.mark.parametrize(
    "case", ["syncnet_16_pixel", "syncnet_16_pixel_attn", "syncnet_16_latent", "syncnet_25_pixel"]
)
def test_golden(case: str, golden: Path, synthetic: ModuleType) -> None:
    facts = json.loads((golden / f"{case}.json").read_text())
    syncnet = build_syncnet(config_of(facts)).eval()
    shapes = {key: list(tensor.shape) for key, tensor in syncnet.state_dict().items()}
    assert shapes == facts["state_dict"]
    syncnet.load_state_dict(synthetic.synthetic_state_dict(facts["state_dict"], facts["salt"]))
    image = synthetic.synthetic_input(f"{case}/image", facts["image_shape"], facts["salt"])
    mel = synthetic.synthetic_input(f"{case}/mel", facts["mel_shape"], facts["salt"]) * facts["mel_gain"]
    with torch.no_grad():
        visual, audio = syncnet(image, mel)
    expected = load_file(golden / f"{case}.safetensors")
    for ours, theirs in ((visual, expected["vision"]), (audio, expected["audio"])):
        assert (ours - theirs).norm() / theirs.norm() < 1e-4


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    syncnet = build_syncnet(TINY).eval()
    save_checkpoint(tmp_path / "syncnet.safetensors", syncnet.state_dict(), kind="syncnet", config=TINY)
    loaded = load_checkpoint(
        tmp_path / "syncnet.safetensors", kind="syncnet", config_type=SyncNetConfig, build=build_syncnet
    )
    assert loaded.config == TINY
    with torch.no_grad():
        torch.testing.assert_close(loaded(*windows(TINY)), syncnet(*windows(TINY)))


def test_embeddings_are_unit_vectors_without_negative_entries() -> None:
    with torch.no_grad():
        for vectors in build_syncnet(TINY)(*windows(TINY)):
            assert vectors.shape == (2, 8)
            assert vectors.min() >= 0
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_checkpointing_keeps_gradients() -> None:
    def gradients(syncnet: SyncNet) -> list[torch.Tensor]:
        syncnet.zero_grad()
        visual, audio = syncnet(*windows(TINY))
        ((1 - audio @ visual.T) ** 2).sum().backward()
        return [p.grad.clone() for p in syncnet.parameters() if p.grad is not None]

    syncnet = build_syncnet(TINY)
    plain = gradients(syncnet)
    blocks_run = []
    syncnet.visual_encoder.down_blocks[0].register_forward_pre_hook(lambda *_: blocks_run.append(1))  # type: ignore[union-attr,index]
    syncnet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(syncnet), plain)
    assert len(blocks_run) == 2


def test_frames_are_stacked_frame_by_frame() -> None:
    video = torch.arange(5.0).reshape(1, 1, 5, 1, 1) + torch.tensor([0.0, 0.1, 0.2]).reshape(1, 3, 1, 1, 1)
    video = video.expand(1, 3, 5, 32, 32).clone()
    video[:, :, :, :16] = 99
    stacked = stack_frames(video, TINY)
    assert stacked.shape == (1, 15, 16, 32)
    torch.testing.assert_close(stacked[0, :6, 0, 0], torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, 1.2]))


def test_frames_of_another_size() -> None:
    with pytest.raises(ShapeError, match=r"axis h .* must be 32, got 64"):
        stack_frames(torch.zeros(1, 3, 5, 64, 64), TINY)


def test_window_that_does_not_shrink_to_one_pixel() -> None:
    with pytest.raises(ShapeError, match=r"\(64, 64\) .* shrink to \(4, 2\)"):
        build_syncnet(TINY).embed_frames(torch.zeros(1, 15, 64, 64))


def test_wav2lip() -> None:
    with torch.device("meta"):
        syncnet = build_syncnet(WAV2LIP)
        visual, audio = syncnet(torch.zeros(2, 15, 128, 256), torch.zeros(2, 1, 80, 16))
    assert visual.shape == audio.shape == (2, 1024)
    assert sum(parameter.numel() for parameter in syncnet.parameters()) == 65_215_360
    with pytest.raises(ValueError, match="wav2lip"):
        syncnet.enable_gradient_checkpointing()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_groups": 3}, "8 channels cannot be split into 3 groups"),
        ({"kind": "wav2lip"}, "visual tower of kind 'wav2lip' has 7 blocks"),
        ({"audio": TowerConfig(channels=(4,), factors=(2,), attention=())}, "end with 8 and 4 channels"),
    ],
)
def test_configuration_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.replaced(**changes)


def test_attention_that_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="12 channels cannot be split into 8 heads"):
        TowerConfig(channels=(12,), factors=(2,), attention=(True,))
