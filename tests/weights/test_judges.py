from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.models.facenet import FaceNet
from latentsync.models.syncnet import build_syncnet
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.models.videomae import build_video_encoder
from latentsync.recipe.networks import TowerConfig, VideoEncoderConfig
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.judges import (
    RELEASED_SYNCNETS,
    config_of,
    facenet_from_released,
    load_syncnet,
    syncnet_from_released,
    syncnet_v2_from_released,
    videomae_from_released,
)
from tests.networks import PAPER_SYNCNET

TINY = PAPER_SYNCNET.replaced(
    visual=TowerConfig(channels=(8,), factors=((16, 32),), attention=(True,)),
    audio=TowerConfig(channels=(8,), factors=((80, 16),), attention=()),
    frames=5,
    resolution=32,
    norm_groups=4,
)
TINY_VIDEO = VideoEncoderConfig(width=384, depth=2, heads=6, hidden=16, classes=3)


def on_meta(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def write(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("16_pixel", 371_766_496),
        ("16_pixel_attn", 401_306_080),
        ("16_latent", 65_544_416),
        ("25_pixel", 103_742_144),
    ],
)
def test_full_size_syncnet(name: str, parameters: int, golden: Path) -> None:
    shapes = json.loads((golden / f"keys_syncnet_{name}.json").read_text())["state_dict"]
    config = config_of(on_meta(shapes), Path("stable_syncnet.pt"))
    assert config == RELEASED_SYNCNETS[name]
    with torch.device("meta"):
        syncnet = build_syncnet(config)
    assert {key: list(tensor.shape) for key, tensor in syncnet.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in syncnet.parameters()) == parameters


def test_released_syncnet_beside_its_training_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASED_SYNCNETS, "tiny", TINY)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in build_syncnet(TINY).state_dict().items()}
    state = {key: torch.rand(shape) for key, shape in shapes.items()}
    losses = {"train_step_list": [1, 2], "train_loss_list": [0.7, 0.6]}
    path = write({"state_dict": state, "global_step": 2, **losses}, tmp_path / "stable_syncnet.pt")
    syncnet = load_syncnet(path)
    assert not syncnet.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in syncnet.state_dict().items())


def test_our_own_syncnet(tmp_path: Path) -> None:
    path = tmp_path / "syncnet.safetensors"
    save_checkpoint(path, build_syncnet(TINY).state_dict(), kind="syncnet", config=TINY)
    syncnet = load_syncnet(path, dtype=torch.float16)
    assert syncnet.config == TINY
    assert {parameter.dtype for parameter in syncnet.parameters()} == {torch.float16}


def test_syncnet_of_another_size(tmp_path: Path) -> None:
    path = write(build_syncnet(TINY).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"no released size: it takes 15 channels, in blocks of \(8,\)"):
        syncnet_from_released(path)


def test_judge(tmp_path: Path) -> None:
    path = write(SyncNetV2().state_dict(), tmp_path / "syncnet_v2.model")
    judge = syncnet_v2_from_released(path, dtype=torch.float16)
    assert not judge.training
    assert judge.netcnnaud[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("wrapper", ["model", "module"])
def test_temporal(wrapper: str, tmp_path: Path) -> None:
    state = build_video_encoder(TINY_VIDEO).state_dict()
    encoder = videomae_from_released(write({wrapper: state}, tmp_path / "vit.pth"))
    assert encoder.config == TINY_VIDEO
    assert all(torch.equal(tensor, state[key]) for key, tensor in encoder.state_dict().items())


def test_full_size_temporal(golden: Path) -> None:
    shapes = json.loads((golden / "keys_videomaev2_g.json").read_text())
    with torch.device("meta"):
        encoder = build_video_encoder(VideoEncoderConfig())
    assert {key: list(tensor.shape) for key, tensor in encoder.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 1_011_855_918


def test_temporal_of_unknown_width(tmp_path: Path) -> None:
    config = VideoEncoderConfig(width=16, depth=1, heads=2, hidden=16)
    path = write(build_video_encoder(config).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="features have 16 numbers"):
        videomae_from_released(path)


def test_a_face_network_in_the_layout_of_its_file(tmp_path: Path) -> None:
    """At full size, in torch's format of 2020, without the counters that older files lack."""
    torch.manual_seed(0)
    made = FaceNet().eval()
    state = {key: value for key, value in made.state_dict().items() if "num_batches" not in key}
    assert len(state) == 604 and sum(value.numel() for value in state.values()) == 27_939_927
    path = tmp_path / "20180402-114759-vggface2.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    faces = torch.rand(2, 3, 160, 160) * 2 - 1
    found = facenet_from_released(path)(faces)
    torch.testing.assert_close(found, made(faces))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    "load",
    [syncnet_from_released, syncnet_v2_from_released, videomae_from_released, facenet_from_released],
)
def test_weights_of_another_network_are_named(load: object, tmp_path: Path) -> None:
    path = write({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, tmp_path / "vae.pt")
    with pytest.raises(WeightsError, match=r"vae.pt.* seems to be a VAE") as caught:
        load(path)  # type: ignore[operator]
    assert caught.value.hint


def test_missing_key(tmp_path: Path) -> None:
    state = SyncNetV2().state_dict()
    del state["netfclip.3.bias"]
    with pytest.raises(WeightsError, match=r"missing keys: 1 \(netfclip.3.bias\)"):
        syncnet_v2_from_released(write(state, tmp_path / "syncnet_v2.model"))
