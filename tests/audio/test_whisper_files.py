"""Whisper files in three layouts, and files that are something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentsync.audio.whisper import load_whisper
from latentsync.errors import WeightsError


def load(path: Path) -> dict[str, Tensor]:
    return load_whisper(path, device="cpu", dtype=torch.float32).transformer.state_dict()


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def tensors(tiny_pt: Path) -> dict[str, Tensor]:
    return load(tiny_pt)


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_hugging_face_layouts_load(tmp_path: Path, tensors: dict[str, Tensor], prefix: str) -> None:
    held = {prefix + name: tensor for name, tensor in tensors.items()}
    others = {"model.decoder.layer_norm.weight": torch.ones(64), "proj_out.weight": torch.ones(8, 64)}
    save_file(held | others, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": 2}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_whisper(path, device="cpu", dtype=torch.float32)
        assert loaded.dims.n_audio_head == 2
        for name, tensor in loaded.transformer.state_dict().items():
            assert torch.equal(tensor, tensors[name])


def test_our_layout_states_its_dimensions(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "ours.safetensors"
    dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 4}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path, {"dims": json.dumps(dims)})
    encoder = load_whisper(path, device="cpu", dtype=torch.float16)
    assert encoder.dims.n_audio_head == 4
    assert encoder.transformer.conv1.weight.dtype == torch.float16


def test_a_missing_tensor_is_named(tmp_path: Path, openai_checkpoint: dict[str, Any]) -> None:
    whole = openai_checkpoint["model_state_dict"]
    held = {name: tensor for name, tensor in whole.items() if "2.attn.out" not in name}
    torch.save(openai_checkpoint | {"model_state_dict": held}, tmp_path / "tiny.pt")
    assert 'lacks Whisper encoder tensor "layers.2.self_attn.out_proj.bias"' in refused(tmp_path / "tiny.pt")


def test_an_unknown_tensor_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors | {"layers.0.extra": torch.ones(1)}, tmp_path / "model.safetensors")
    assert '"layers.0.extra"' in refused(tmp_path / "model.safetensors")


def test_a_wrong_shape_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors | {"layers.1.fc1.weight": torch.ones(256, 63)}, tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors")
    assert '"layers.1.fc1.weight" has shape (256, 63), expected (256, 64)' in message


def test_another_mel_count_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors | {"conv1.weight": torch.ones(64, 128, 3)}, tmp_path / "large.safetensors")
    assert "128 mel bands" in refused(tmp_path / "large.safetensors")


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_unet_is_recognised(tmp_path: Path, wrapped: bool) -> None:
    unet = {"conv_in.weight": torch.ones(4, 13, 3, 3), "down_blocks.0.resnets.0.norm1.weight": torch.ones(4)}
    torch.save({"global_step": 1, "state_dict": unet} if wrapped else unet, tmp_path / "unet.pt")
    save_file(unet, tmp_path / "unet.safetensors")
    assert "is a diffusion U-Net, not a Whisper" in refused(tmp_path / "unet.pt")
    assert "is a diffusion U-Net, not a Whisper" in refused(tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"hello, this is text", "not a weights file"), (b"PK\3\4rubbish", "damaged")],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tiny.pt").write_bytes(content)
    assert message in refused(tmp_path / "tiny.pt")


def test_truncated_files_are_refused(tmp_path: Path, tiny_pt: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    for whole in (tiny_pt, tmp_path / "model.safetensors"):
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(whole.read_bytes()[:-1000])
        assert "damaged" in refused(cut)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pt")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(tmp_path)


class Trap:
    """Creates a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("is_zip", [True, False])
def test_no_code_in_a_file_is_run(tmp_path: Path, is_zip: bool) -> None:
    path, sprung = tmp_path / "tiny.pt", tmp_path / "sprung"
    if is_zip:
        torch.save({"dims": {}, "model_state_dict": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    refused(path)
    assert not sprung.exists()
