"""Reads the encoder out of a Whisper file in any of three layouts, under Hugging Face's key names."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentsync.errors import WeightsError

HEAD_CHANNELS = 64  # of every released Whisper, where a file does not say
_HINT = "give OpenAI's tiny.pt, a Hugging Face Whisper folder or its model.safetensors"
_PREFIXES = ("model.encoder.", "encoder.")
_OTHER_HALF = ("model.decoder.", "decoder.", "proj_out.")
_FROM_OPENAI = (
    (r"^positional_embedding$", "embed_positions.weight"),
    (r"^blocks\.", "layers."),
    (r"^ln_post\.", "layer_norm."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
)
_OTHER_NETWORKS = (
    (r"^(down|up)_blocks\.", "a diffusion U-Net"),
    (r"^(audio|visual)_encoder\.", "a SyncNet"),
    (r"^(encoder\.(down_blocks|conv_in)|quant_conv|encoder\.layers\.0\.weight)", "an image autoencoder"),
    (r"^(blocks\.\d+\.attn\.q_bias|patch_embed\.)", "a VideoMAE"),
)


@dataclass(frozen=True, slots=True)
class WhisperDims:
    """Dimensions of an encoder, under the names of OpenAI's checkpoints."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int


def read_whisper_file(path: Path) -> tuple[dict[str, Tensor], WhisperDims]:
    """The encoder's tensors under Hugging Face's names, and its dimensions.

    Raises:
        WeightsError: the file is missing, damaged or not a Whisper.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f'there is no Whisper file "{file}"', hint=_HINT)
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as error:
        raise WeightsError(
            f'"{file}" cannot be read: {error.strerror}', hint="check its permissions"
        ) from error
    if start[8:] == b"{":
        tensors, stated = _read_safetensors(file)
    elif start[:2] in (b"PK", b"\x80\x02"):
        tensors, stated = _read_torch(file)
    else:
        kind = "an empty file" if not start else "not a weights file"
        raise WeightsError(f'"{file}" is {kind}', hint=_HINT)
    return tensors, _dims(file, tensors, stated)


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], Mapping[str, object]]:
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            names = _encoder_names(file, opened.keys())
            tensors = {name: opened.get_tensor(key) for key, name in names.items()}
    except SafetensorError as error:
        raise WeightsError(f'"{file}" is damaged: {_one_line(error)}', hint="fetch the file again") from error
    if "dims" in metadata:
        return tensors, _json_object(file, metadata["dims"])
    config = file.with_name("config.json")
    if config.is_file():
        stated = _json_object(config, config.read_bytes())
        return tensors, {"n_audio_head": stated.get("encoder_attention_heads")}
    return tensors, {}


def _read_torch(file: Path) -> tuple[dict[str, Tensor], Mapping[str, object]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise WeightsError(
            f'"{file}" is damaged or holds more than tensors: {_one_line(error)}', hint="fetch the file again"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f'"{file}" holds {_a(content)}, not a Whisper', hint=_HINT)
    if not isinstance(content.get("model_state_dict"), dict) or not isinstance(content.get("dims"), dict):
        inner = content.get("state_dict", content)
        keys = inner if isinstance(inner, dict) else content
        raise WeightsError(f'"{file}" is {_describe(str(key) for key in keys)}, not a Whisper', hint=_HINT)
    held = content["model_state_dict"]
    names = _encoder_names(file, [str(key) for key, value in held.items() if isinstance(value, Tensor)])
    return {name: held[key] for key, name in names.items()}, content["dims"]


def _encoder_names(file: Path, keys: Iterable[str]) -> dict[str, str]:
    """Which keys of the file belong to the encoder, and what Hugging Face calls them."""
    keys = list(keys)
    names = {key: hugging_face_name(key) for key in keys if not key.startswith(_OTHER_HALF)}
    if "conv1.weight" not in names.values() or "embed_positions.weight" not in names.values():
        raise WeightsError(f'"{file}" is {_describe(keys)}, not a Whisper', hint=_HINT)
    return names


def hugging_face_name(key: str) -> str:
    """What Hugging Face calls the encoder tensor `key` of any layout.

    >>> hugging_face_name("encoder.blocks.0.attn.query.weight")
    'layers.0.self_attn.q_proj.weight'
    """
    name = next((key.removeprefix(prefix) for prefix in _PREFIXES if key.startswith(prefix)), key)
    for pattern, replacement in _FROM_OPENAI:
        name = re.sub(pattern, replacement, name)
    return name


def _dims(file: Path, tensors: Mapping[str, Tensor], stated: Mapping[str, object]) -> WhisperDims:
    """Dimensions as the file states them; what it does not state follows from the tensors."""
    positions, conv = tensors["embed_positions.weight"], tensors["conv1.weight"]
    if (positions.ndim, conv.ndim) != (2, 3):
        raise WeightsError(f'"{file}" has Whisper\'s names but not its shapes', hint=_HINT)
    context, width = positions.shape
    found: dict[str, object] = {
        "n_mels": conv.shape[1],
        "n_audio_ctx": context,
        "n_audio_state": width,
        "n_audio_head": width // HEAD_CHANNELS,
        "n_audio_layer": len({name.split(".")[1] for name in tensors if name.startswith("layers.")}),
    }
    numbers: dict[str, int] = {}
    for field in fields(WhisperDims):
        number = stated.get(field.name, found[field.name])
        if type(number) is not int or number < 1:
            raise WeightsError(f'"{file}": {field.name} is {number!r}, expected a whole number', hint=_HINT)
        if field.name != "n_audio_head" and number != found[field.name]:
            fault = f"{field.name} is {number}, and its tensors say {found[field.name]}"
            raise WeightsError(f'"{file}": {fault}', hint="fetch the file again")
        numbers[field.name] = number
    dims = WhisperDims(**numbers)
    if (dims.n_mels, dims.n_audio_ctx) != (80, 1500):
        raise WeightsError(
            f'"{file}" hears {dims.n_mels} mel bands and {dims.n_audio_ctx} steps, expected 80 and 1500',
            hint="use Whisper tiny, which the released models were trained with",
        )
    if dims.n_audio_state % dims.n_audio_head:
        heads = f"{dims.n_audio_state} features do not divide into {dims.n_audio_head} heads"
        raise WeightsError(f'"{file}": {heads}', hint=_HINT)
    return dims


def _json_object(file: Path, text: str | bytes) -> dict[str, object]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise WeightsError(f'"{file}": dimensions are not JSON', hint="fetch the file again") from error
    if not isinstance(content, dict):
        raise WeightsError(f'"{file}": dimensions are {_a(content)}', hint="fetch the file again")
    return content


def _describe(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    for pattern, network in _OTHER_NETWORKS:
        if any(re.match(pattern, key) for key in keys):
            return network
    return f'a file of {len(keys)} other entries ("{keys[0]}", ...)' if keys else "an empty file"


def _a(content: object) -> str:
    return f"a {type(content).__name__}"


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
