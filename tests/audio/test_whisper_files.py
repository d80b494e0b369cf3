"""Whisper files in three layouts, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.weights.released import load_whisper


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
    note = {"format": "latentsync-1", "kind": "whisper", "config": json.dumps(dims), "facts": "{}"}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path, note)
    encoder = load_whisper(path, device="cpu", dtype=torch.float16)
    assert encoder.dims.n_audio_head == 4
    assert encoder.transformer.conv1.weight.dtype == torch.float16


def test_a_missing_tensor_is_named(tmp_path: Path, openai_checkpoint: dict[str, Any]) -> None:
    whole = openai_checkpoint["model_state_dict"]
    held = {name: tensor for name, tensor in whole.items() if "2.attn.out" not in name}
    torch.save(openai_checkpoint | {"model_state_dict": held}, tmp_path / "tiny.pt")
    assert "missing keys: 2 (layers.2.self_attn.out_proj.bias, " in refused(tmp_path / "tiny.pt")


def test_another_mel_count_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors | {"conv1.weight": torch.ones(64, 128, 3)}, tmp_path / "large.safetensors")
    assert "128 mel bands" in refused(tmp_path / "large.safetensors")


@pytest.mark.parametrize("heads", [0, 3, "two", None])
def test_a_number_of_heads_that_cannot_be(tmp_path: Path, tensors: dict[str, Tensor], heads: object) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": heads}))
    refused(tmp_path / "model.safetensors")


def test_another_network_is_named(tmp_path: Path) -> None:
    torch.save({"netcnnaud.0.weight": torch.ones(4)}, tmp_path / "syncnet_v2.model")
    assert "is not a Whisper: it seems to be the SyncNet v2 judge" in refused(tmp_path / "syncnet_v2.model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(tmp_path)
