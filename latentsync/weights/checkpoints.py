"""Our own weights files: safetensors with the kind of network and its configuration inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from latentsync.errors import WeightsError
from latentsync.weights.read import (
    DOWNLOAD_AGAIN,
    forget_pages,
    mapped_spans,
    name_keys,
    read_metadata,
    read_tensors,
    write_tensors,
)

FORMAT = "latentsync-1"
WHOLE_FILE = "give the weights file of this network, whole and unchanged"
USED_BY = {
    "unet": "a U-Net is what `latentsync sync --model` takes",
    "autoencoder": "put an autoencoder next to its U-Net as vae.safetensors",
    "vae": "put a VAE next to its U-Net as vae.safetensors",
    "syncnet": "a SyncNet judges lip sync; `latentsync sync --model` takes a U-Net",
    "framewise_syncnet": "a SyncNet judges lip sync; `latentsync sync --model` takes a U-Net",
    "temporal": "a video encoder is for the temporal loss of `latentsync train-unet`",
    "wav2lip": "`latentsync sync --model` runs a Wav2Lip generator",
    "whisper": "put a Whisper encoder next to a released U-Net as whisper/tiny.pt",
    "landmarks": "the landmark network is bundled; `latentsync sync --model` takes a U-Net",
}

ConfigT = TypeVar("ConfigT", bound=BaseModel)
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class CheckpointNote:
    """What a checkpoint says about itself.

    kind    which network: "unet", "vae", "syncnet", "landmarks"
    config  the fields of that network's configuration
    facts   anything worth keeping: training steps, scheduler settings, licence
    """

    kind: str
    config: dict[str, Any]
    facts: dict[str, Any]


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    kind: str,
    config: BaseModel,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write `state` and what is needed to build its network again; the file appears whole or not at all.

    Args:
        config: what the network was built from; see `latentsync.recipe.networks`.
        facts: further values that JSON can hold.

    Raises:
        WeightsError: the file cannot be written.
    """
    write_tensors(path, state, note_text(kind, config, facts or {}))


def note_text(kind: str, config: BaseModel, facts: Mapping[str, Any]) -> dict[str, str]:
    """Write what a checkpoint says about itself as the metadata of its file; `read_note` reads it.

    Args:
        facts: values that JSON can hold.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        "config": config.model_dump_json(),
        "facts": json.dumps(dict(facts)),
    }


def read_note(path: Path) -> CheckpointNote:
    """Read what the checkpoint at `path` says about itself, without its tensors.

    Raises:
        WeightsError: it is not one of our files.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{str(path)!r} has format {metadata.get('format')!r}, expected {FORMAT!r}",
            hint="convert other files with `latentsync models import`",
        )
    try:
        config, facts = json.loads(metadata["config"]), json.loads(metadata["facts"])
        if not isinstance(config, dict) or not isinstance(facts, dict):
            raise ValueError("its notes are not tables")
        return CheckpointNote(metadata["kind"], config, facts)
    except (KeyError, ValueError, RecursionError) as error:
        message = f"{str(path)!r} has a damaged header: {error}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is one of our own files."""
    try:
        return read_metadata(path).get("format") == FORMAT
    except WeightsError:
        return False


def load_checkpoint(
    path: Path,
    *,
    kind: str,
    config_type: type[ConfigT],
    build: Callable[[ConfigT], ModelT],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelT:
    """Build the network that the checkpoint at `path` describes and give it the stored weights, in eval mode.

    Raises:
        WeightsError: the file is of another kind, or its configuration or tensors do not fit the network.
    """
    note = read_note(path)
    if note.kind != kind:
        hint = USED_BY.get(note.kind, f"give the file of a {kind} network")
        raise WeightsError(f"{str(path)!r} holds {note.kind} weights, expected {kind} weights", hint=hint)
    try:
        config = config_of(note, config_type)
        with torch.device("meta"):
            model = build(config)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise WeightsError(
            f"the configuration in {str(path)!r} does not fit: {error}",
            hint="it may have been written by a newer latentsync",
        ) from error
    assign_strictly(model, read_tensors(path), path, device=device, dtype=dtype)
    return model.eval()


def assign_strictly(
    model: nn.Module,
    tensors: dict[str, Tensor],
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Give `model`, built on the meta device, the tensors of `path`: exactly its keys and shapes.

    All is checked before any memory is taken. Then each tensor is converted by itself, becomes the parameter,
    and the pages of the file under it are given back, so that there is never a second whole copy. `tensors`
    is empty afterwards.

    Raises:
        WeightsError: keys are missing or left over, or a shape differs.
    """
    check_fit(model, tensors, path)
    spans = mapped_spans(path)
    state = {}
    for key in model.state_dict():
        tensor = tensors.pop(key)
        state[key] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        if state[key].data_ptr() != tensor.data_ptr():
            forget_pages(tensor, spans)
    model.load_state_dict(state, strict=True, assign=True)


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse the tensors of `path` unless they have exactly the keys and shapes of `model`.

    Raises:
        WeightsError: keys are missing or left over, or a shape differs.
    """
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or extra:
        counts = (("missing", missing), ("unexpected", extra))
        faults = "; ".join(f"{word} keys: {name_keys(keys)}" for word, keys in counts if keys)
        message = f"{str(path)!r} does not fit the {type(model).__name__}: {faults}"
        raise WeightsError(message, hint=WHOLE_FILE)
    for key, shape in expected.items():
        if tensors[key].shape != shape:
            found, wanted = tuple(tensors[key].shape), tuple(shape)
            message = f"{key!r} in {str(path)!r} has shape {found}, expected {wanted}"
            raise WeightsError(message, hint=WHOLE_FILE)


def config_of(note: CheckpointNote, config_type: type[ConfigT]) -> ConfigT:
    """The configuration in `note`.

    Raises:
        ValueError: its fields are not those of `config_type`, or do not fit together.
    """
    try:
        # Through JSON, where strict checking still takes a list for a tuple.
        return config_type.model_validate_json(json.dumps(note.config))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{name}: {fault['msg']}" if name else fault["msg"]) from error
