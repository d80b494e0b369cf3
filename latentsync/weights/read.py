"""Reads the tensors out of a file that may be anything, and writes safetensors tensor by tensor."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.weights.mapping import forget_pages, mapped_spans

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80\x02"
DOWNLOAD_AGAIN = "fetch it again: the copy is not whole, or it is not a weights file"
NEEDS_WEIGHTS = "give the file that holds the network's weights"
SHOWN_KEYS = 3

# What a file may ask for before its tensors are looked at; the released files stay a hundred times below.
HEADER_BYTES = 4 << 20  # the table of contents of a safetensors file
PICKLE_BYTES = 16 << 20  # the same of a torch file, with the losses of a training run in it
OLD_PICKLE_BYTES = 4 << 20  # the same of a torch file before 1.6, which no training of LatentSync wrote
KEYS = 20_000
KEY_LETTERS = 500
SHARED = 2  # tied weights are stored once and count twice

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
FORMATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FORMAT_OF = {dtype: name for name, dtype in FORMATS.items()}

# Files that are no weights files, by their first bytes: what they are, and what to do.
MAGICS = (
    (b"GGUF", "a GGUF file", "GGUF is for language models: give the released .pt or .safetensors file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"<", "a web page", "the download wants a login or a licence to be accepted first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x89HDF", "a HDF5 file", NEEDS_WEIGHTS),
    (b"\x93NUMPY", "a NumPy array", NEEDS_WEIGHTS),
)
ONNX_HINT = "this project needs no InsightFace or other ONNX model: its own face networks are in the package"


@dataclass(frozen=True, slots=True)
class Content:
    """What a weights file holds.

    tensors  by key, mapped from the file where the format allows
    beside   the other entries of a torch file, such as "global_step" and "dims"; a safetensors file's text
    """

    tensors: dict[str, Tensor]
    beside: dict[str, Any]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of `path` on the CPU, mapped from the file rather than copied where the format allows.

    A torch file may hold the tensors themselves or have them under "state_dict" and the like. Nothing in the
    file is executed, and no size that it states is believed before it is compared with the file's own.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds no tensors.
    """
    return read_content(path).tensors


def read_content(path: Path) -> Content:
    """Read `path` as `read_tensors` does, and what it says beside its tensors.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds no tensors.
    """
    start = _first_bytes(path)
    if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)) and not _is_safetensors(start):
        content = _read_torch(path, is_zip=start.startswith(ZIP_MAGIC))
    else:
        content = _read_safetensors(path)
    if not content.tensors:
        raise WeightsError(f"{str(path)!r} holds no tensors", hint=NEEDS_WEIGHTS)
    _check_tensors(path, content.tensors)
    return content


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text that a safetensors file carries beside its tensors.

    Raises:
        WeightsError: it is not a safetensors file.
    """
    metadata = _read_header(path).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise WeightsError(f"{str(path)!r} is damaged: its metadata is not text", hint=DOWNLOAD_AGAIN)
    return metadata


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    source: Path | None = None,
) -> int:
    """Write a safetensors file, one tensor after the other; it appears whole or not at all.

    Args:
        dtype: what floating point tensors become, each when its turn comes; None: they stay as they are.
        source: the file that `tensors` are mapped from, whose pages are given back on the way.

    Returns:
        The size of the file in bytes.

    Raises:
        WeightsError: the file cannot be written, or a number does not fit `dtype`.

    Source: the safetensors format: a length, a JSON table of contents, the numbers end to end.
    """
    formats = {
        key: dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        for key, tensor in tensors.items()
    }
    order = sorted(tensors, key=lambda key: (-formats[key].itemsize, key))  # so that every tensor is aligned
    spans = [] if source is None else mapped_spans(source)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(_header(order, tensors, formats, metadata))
            for key in order:
                tensor = tensors[key].detach()
                fitting = tensor if dtype is None else _convert(key, tensor, formats[key])
                file.write(fitting.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                forget_pages(tensor, spans)
            size_bytes = file.tell()
        os.replace(part, path)
    except OSError as error:
        hint = "check that the folder is writable and the disk has room"
        raise WeightsError(f"cannot write {str(path)!r}: {error}", hint=hint) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return size_bytes


def name_keys(keys: set[str]) -> str:
    """Say how many keys there are and name the first few.

    >>> name_keys({"b", "a"})
    '2 (a, b)'
    """
    shown = sorted(keys)[:SHOWN_KEYS]
    return f"{len(keys)} ({', '.join(shown)}{', …' if len(keys) > len(shown) else ''})"


def _convert(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    converted = tensor.to(dtype)
    if not converted.is_floating_point() or torch.isfinite(converted).all():
        return converted
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"{key!r} holds numbers that are not finite", hint=DOWNLOAD_AGAIN)
    largest, limit = float(tensor.abs().max()), torch.finfo(dtype).max
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")
    hint = "use bf16, which reaches as far as fp32" if name == "fp16" else "use a wider number format"
    raise WeightsError(f"{key!r} holds {largest:.5g}, and {name} ends at {limit:.5g}", hint=hint)


def _header(
    order: list[str],
    tensors: Mapping[str, Tensor],
    formats: Mapping[str, torch.dtype],
    metadata: Mapping[str, str],
) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    sizes = (tensors[key].numel() * formats[key].itemsize for key in order)
    ends = list(itertools.accumulate(sizes, initial=0))
    for key, (start, end) in zip(order, itertools.pairwise(ends), strict=True):
        dtype, shape = FORMAT_OF[formats[key]], list(tensors[key].shape)
        table[key] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        hint = "check the path, or see `latentsync models list`"
        raise WeightsError(f"no weights file {str(path)!r}", hint=hint) from error
    except OSError as error:
        hint = "give a file that can be read"
        raise WeightsError(f"cannot read {str(path)!r}: {error.strerror}", hint=hint) from error
    if not start:
        raise WeightsError(f"{str(path)!r} is empty", hint=DOWNLOAD_AGAIN)
    if _is_safetensors(start):
        return start
    for magic, what, hint in MAGICS:
        if start.startswith(magic):
            raise WeightsError(f"{str(path)!r} is not a weights file: it is {what}", hint=hint)
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start)):
        raise WeightsError(f"{str(path)!r} is not a weights file: it is an ONNX model", hint=ONNX_HINT)
    return start


def _is_safetensors(start: bytes) -> bool:
    """By the brace after the length, which itself may begin like any other format."""
    return start[8:9] == b"{"


def _read_torch(path: Path, *, is_zip: bool) -> Content:
    try:
        with path.open("rb") as file:
            (_check_zip if is_zip else _check_pickle)(file, path)
        with warnings.catch_warnings(action="ignore"):  # of what stops the reader a line later
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        message = f"{str(path)!r} holds more than tensors, which is not loaded for safety, or it is damaged"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error
    except Exception as error:  # a junk file breaks the readers in many ways: struct, index, key, end of file
        message = f"{str(path)!r} is damaged: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error
    if not isinstance(content, Mapping):
        message = f"{str(path)!r} holds a {type(content).__name__} instead of named tensors"
        raise WeightsError(message, hint=NEEDS_WEIGHTS)
    place = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    if place is None:
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        return Content(tensors, {key: value for key, value in content.items() if key not in tensors})
    strays = {
        str(key)[:KEY_LETTERS] for key, value in content[place].items() if not isinstance(value, Tensor)
    }
    if strays:
        message = f"{str(path)!r} has entries among its weights that are no tensors: {name_keys(strays)}"
        raise WeightsError(message, hint=NEEDS_WEIGHTS)
    beside = {key: value for key, value in content.items() if key != place}
    return Content(dict(content[place]), beside)


def _check_zip(file: BinaryIO, path: Path) -> None:
    """Refuse a zip that torch did not write: packed, overlapping or oversized members, programs."""
    size_bytes = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    names = {member.filename.partition("/")[2] for member in members}
    if "constants.pkl" in names:
        hint = "give the plain weights; `latentsync models list` names the files that are read"
        message = f"{str(path)!r} is a TorchScript program (as I3D's and 2DFAN4's are), not a set of weights"
        raise WeightsError(message, hint=hint)
    if "data.pkl" not in names:
        raise WeightsError(f"{str(path)!r} is a zip archive without weights", hint=NEEDS_WEIGHTS)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(
            f"{str(path)!r} is a packed zip archive, which torch does not write", hint=DOWNLOAD_AGAIN
        )
    stated = sum(max(member.file_size, member.compress_size) for member in members)
    if stated > size_bytes:
        raise WeightsError(
            f"{str(path)!r} is damaged: it states {stated} bytes of content in {size_bytes}",
            hint=DOWNLOAD_AGAIN,
        )
    pickles = max(member.file_size for member in members if member.filename.endswith("data.pkl"))
    if pickles > PICKLE_BYTES:
        raise WeightsError(f"{str(path)!r} has a list of contents of {pickles} bytes", hint=NEEDS_WEIGHTS)


def _check_pickle(file: BinaryIO, path: Path) -> None:
    """Refuse an old torch file whose lists of contents do not end: they would fill the memory."""
    head = io.BytesIO(file.read(OLD_PICKLE_BYTES))
    try:
        for _ in range(5):  # magic number, protocol, machine, content, names of the storages
            for _ in pickletools.genops(head):
                pass
    except ValueError:
        if head.tell() == OLD_PICKLE_BYTES:
            message = f"{str(path)!r} has a list of contents of over {OLD_PICKLE_BYTES} bytes"
            raise WeightsError(message, hint=NEEDS_WEIGHTS) from None
        raise


def _read_safetensors(path: Path) -> Content:
    header = _read_header(path)
    strange = {
        str(entry.get("dtype")) for key, entry in header.items() if key != "__metadata__"
    } - FORMATS.keys()
    if strange:
        message = f"{str(path)!r} has tensors in formats that are not read: {name_keys(strange)}"
        raise WeightsError(message, hint="give the weights as fp32, fp16 or bf16")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Content(tensors, dict(file.metadata() or {}))
    except Exception as error:  # besides its own error, the reader lets some of torch's through
        message = f"{str(path)!r} is not a weights file: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _read_header(path: Path) -> dict[str, Any]:
    """The table of contents of a safetensors file, whose length is checked before it is read."""
    start = _first_bytes(path)
    try:
        if not _is_safetensors(start):
            raise ValueError("it begins like no file of weights")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            left_bytes = os.fstat(file.fileno()).st_size - 8
            if length > left_bytes:
                raise ValueError(f"it states a header of {length} bytes and has {max(left_bytes, 0)}")
            if length > HEADER_BYTES:
                raise ValueError(f"it states a header of {length} bytes")
            header = json.loads(file.read(length))
        if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
            raise ValueError("its header is not a table of tensors")
        return header
    except (ValueError, RecursionError, OSError) as error:  # JSON's errors and bad UTF-8 are ValueErrors
        message = f"{str(path)!r} is neither safetensors nor a torch file: {_first_sentence(error)}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse keys that are no names, tensors that are no plain arrays, and more numbers than the file has."""
    if len(tensors) > KEYS:
        raise WeightsError(f"{str(path)!r} holds {len(tensors)} tensors", hint=NEEDS_WEIGHTS)
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= KEY_LETTERS:
            message = f"{str(path)!r} has a key that is no name: {str(key)[:40]!r}"
            raise WeightsError(message, hint=DOWNLOAD_AGAIN)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in FORMAT_OF:
            kind = f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
            message = f"{key!r} in {str(path)!r} is not a plain tensor: {kind}"
            raise WeightsError(message, hint="give the weights as fp32, fp16 or bf16")
    size_bytes = path.stat().st_size
    stated = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors.values())
    if stated > SHARED * size_bytes:
        message = f"{str(path)!r} is damaged: it states {stated} bytes of tensors in {size_bytes}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN)


def _first_sentence(error: Exception) -> str:
    said = str(error).partition("\n")[0].partition(". ")[0]
    return said if said.isprintable() and said else type(error).__name__
