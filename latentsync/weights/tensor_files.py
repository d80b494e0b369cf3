"""Reads the tensors out of a file that may be anything: a torch file, old or new, safetensors, or junk."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentsync.errors import WeightsError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80\x02"
DOWNLOAD_AGAIN = "fetch it again: the copy is not whole, or it is not a weights file"
NEEDS_WEIGHTS = "give the file that holds the network's weights"
SHOWN_KEYS = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of `path` on the CPU, mapped from the file rather than copied where the format allows.

    A torch file may hold the tensors themselves or have them under "state_dict"; all else is left out.
    Nothing in the file is executed.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds no tensors.
    """
    magic = _first_bytes(path)
    is_torch = magic == ZIP_MAGIC or magic.startswith(PICKLE_MAGIC)
    tensors = _read_torch(path, magic) if is_torch else _read_safetensors(path)
    if not tensors:
        raise WeightsError(f"{str(path)!r} holds no tensors", hint=NEEDS_WEIGHTS)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text that a safetensors file carries beside its tensors."""
    _first_bytes(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        message = f"{str(path)!r} is not a safetensors file: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def name_keys(keys: set[str]) -> str:
    """Say how many keys there are and name the first few.

    >>> name_keys({"b", "a"})
    '2 (a, b)'
    """
    shown = sorted(keys)[:SHOWN_KEYS]
    return f"{len(keys)} ({', '.join(shown)}{', …' if len(keys) > len(shown) else ''})"


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        hint = "check the path, or see `latentsync models list`"
        raise WeightsError(f"no weights file {str(path)!r}", hint=hint) from error
    except OSError as error:
        hint = "give a file that can be read"
        raise WeightsError(f"cannot read {str(path)!r}: {error.strerror}", hint=hint) from error
    if not magic:
        raise WeightsError(f"{str(path)!r} is empty", hint=DOWNLOAD_AGAIN)
    return magic


def _read_torch(path: Path, magic: bytes) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=magic == ZIP_MAGIC)
    except pickle.UnpicklingError as error:
        message = f"{str(path)!r} holds more than tensors, which is not loaded for safety, or it is damaged"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error
    except (
        Exception
    ) as error:  # a junk file breaks torch's reader in many ways: struct, index, key, end of file
        message = f"{str(path)!r} is damaged: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{str(path)!r} holds a {type(content).__name__} instead of named tensors",
            hint=NEEDS_WEIGHTS,
        )
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        message = f"{str(path)!r} is not a weights file: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
