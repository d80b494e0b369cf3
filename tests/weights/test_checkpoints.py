from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latentsync.errors import WeightsError
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.recipe.schema import Table
from latentsync.weights.checkpoints import (
    assign_strictly,
    is_checkpoint,
    load_checkpoint,
    read_note,
    save_checkpoint,
)
from latentsync.weights.read import read_metadata, read_tensors

CONFIG = VAEConfig(block_out_channels=(8, 8), num_blocks=1, scaling_factor=2.0, norm_num_groups=4)


def load(path: Path, kind: str = "vae", dtype: torch.dtype = torch.float32) -> FaceVAE:
    return load_checkpoint(path, kind=kind, config_type=VAEConfig, build=build_vae, dtype=dtype)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "it's a vae.safetensors"
    save_checkpoint(path, build_vae(CONFIG).state_dict(), kind="vae", config=CONFIG, facts={"steps": 7})
    return path


def test_round_trip(tmp_path: Path) -> None:
    vae = build_vae(CONFIG)
    save_checkpoint(tmp_path / "new" / "vae.safetensors", vae.state_dict(), kind="vae", config=CONFIG)
    loaded = load(tmp_path / "new" / "vae.safetensors")
    assert loaded.config == CONFIG
    assert not loaded.training
    for key, tensor in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_nothing_but_the_file_is_left(saved: Path) -> None:
    assert list(saved.parent.iterdir()) == [saved]


def test_note_without_tensors(saved: Path) -> None:
    note = read_note(saved)
    assert (note.kind, note.facts["steps"], note.config["scaling_factor"]) == ("vae", 7, 2.0)


def test_loads_at_half_precision(saved: Path) -> None:
    assert {tensor.dtype for tensor in load(saved, dtype=torch.float16).state_dict().values()} == {
        torch.float16
    }


def test_other_kind(saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds vae weights, expected unet weights") as caught:
        load(saved, kind="unet")
    assert "next to its U-Net as vae.safetensors" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config", "[]", "damaged header"),
        ("config", "{", "damaged header"),
        ("facts", "7", "damaged header"),
        ("config", '{"block_out_channels": 3}', "does not fit"),
        ("config", '{"block_out_channels": [8, 8], "norm_num_groups": 0}', "does not fit"),
    ],
)
def test_damaged_notes(name: str, text: str, message: str, saved: Path) -> None:
    metadata = {**read_metadata(saved), name: text}
    save_file(build_vae(CONFIG).state_dict(), saved, metadata)
    with pytest.raises(WeightsError, match=message):
        load(saved)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("is_torch", [True, False])
def test_half_precision_makes_no_second_copy(is_torch: bool, tmp_path: Path) -> None:
    """The growth at the peak is that of the converted weights: the file's pages go as they are used."""
    layers = {f"{number}.weight": torch.ones(1000, 1000) for number in range(40)}  # 160 MB
    path = tmp_path / "weights"
    torch.save(layers, path) if is_torch else save_file(layers, path)
    del layers
    with torch.device("meta"):
        network = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(40)))
    Path("/proc/self/clear_refs").write_text("5")
    before_mb = peak_mb()
    assign_strictly(network, read_tensors(path), path, device="cpu", dtype=torch.bfloat16)
    assert peak_mb() - before_mb < 1.3 * 80


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decoder.conv_in.weight": None}, r"missing keys: 1 \(decoder.conv_in.weight\)"),
        ({"stranger": torch.zeros(1)}, r"unexpected keys: 1 \(stranger\)"),
        ({"decoder.conv_in.weight": torch.zeros(2, 2)}, r"has shape \(2, 2\), expected \(8, 4, 3, 3\)"),
    ],
)
def test_tensors_that_do_not_fit(
    changed: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**build_vae(CONFIG).state_dict(), **changed}
    path = tmp_path / "vae.safetensors"
    kept = {key: tensor for key, tensor in state.items() if tensor is not None}
    save_checkpoint(path, kept, kind="vae", config=CONFIG)
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_configuration_of_another_version(tmp_path: Path, saved: Path) -> None:
    class Newer(Table):
        colour: str

    config = Newer(colour="red")
    save_checkpoint(saved, {"weight": torch.zeros(1)}, kind="vae", config=config)
    with pytest.raises(WeightsError, match="colour"):
        load(saved)


def test_safetensors_of_other_origin(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    assert not is_checkpoint(path)
    with pytest.raises(WeightsError, match="has format None") as caught:
        load(path)
    assert "models import" in str(caught.value.hint)


def test_folder_that_cannot_be_made(saved: Path) -> None:
    with pytest.raises(WeightsError, match="cannot write"):
        save_checkpoint(saved / "below" / "file", {"weight": torch.zeros(1)}, kind="vae", config=CONFIG)
