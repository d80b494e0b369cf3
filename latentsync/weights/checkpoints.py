"""Our own weights files: safetensors with the kind of network and its configuration inside."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.errors import WeightsError
from latentsync.weights.tensor_files import DOWNLOAD_AGAIN, name_keys, read_metadata, read_tensors

FORMAT = "latentsync-1"
WHOLE_FILE = "give the weights file of this network, whole and unchanged"

ConfigT = TypeVar("ConfigT")
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
    config: object,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write `state` and what is needed to build its network again; the file appears whole or not at all.

    Args:
        config: the dataclass that the network was built from.
        facts: further values that JSON can hold.

    Raises:
        WeightsError: the file cannot be written.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"config must be a dataclass instance, got {config!r}")
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "config": json.dumps(dataclasses.asdict(config)),
        "facts": json.dumps(dict(facts or {})),
    }
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.detach().contiguous() for key, tensor in state.items()}, part, metadata)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        hint = "check that the folder is writable and the disk has room"
        raise WeightsError(f"cannot write {str(path)!r}: {error}", hint=hint) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def read_note(path: Path) -> CheckpointNote:
    """Read what the checkpoint at `path` says about itself, without its tensors.

    Raises:
        WeightsError: it is not one of our files.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{str(path)!r} has format {metadata.get('format')!r}, expected {FORMAT!r}",
            hint="files of other origin are converted with `latentsync models import`",
        )
    try:
        return CheckpointNote(metadata["kind"], json.loads(metadata["config"]), json.loads(metadata["facts"]))
    except (KeyError, json.JSONDecodeError) as error:
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
        raise WeightsError(
            f"{str(path)!r} holds a {note.kind}, expected a {kind}", hint=f"give the file of a {kind} network"
        )
    try:
        config = config_type(**{name: _as_tuples(value) for name, value in note.config.items()})
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"the configuration in {str(path)!r} does not fit: {error}",
            hint="it may have been written by a newer latentsync",
        ) from error
    with torch.device("meta"):
        model = build(config)
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

    Each tensor is converted by itself and becomes the parameter, so there is never a second whole copy.
    `tensors` is empty afterwards.

    Raises:
        WeightsError: keys are missing or left over, or a shape differs.
    """
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or extra:
        counts = (("missing", missing), ("unexpected", extra))
        faults = "; ".join(f"{word} keys: {name_keys(keys)}" for word, keys in counts if keys)
        raise WeightsError(
            f"{str(path)!r} does not fit the {type(model).__name__}: {faults}", hint=WHOLE_FILE
        )
    for key, shape in expected.items():
        if tensors[key].shape != shape:
            raise WeightsError(
                f"{key!r} in {str(path)!r} has shape {tuple(tensors[key].shape)}, expected {tuple(shape)}",
                hint=WHOLE_FILE,
            )
    state = {}
    for key in expected:
        tensor = tensors.pop(key)
        state[key] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    model.load_state_dict(state, strict=True, assign=True)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
