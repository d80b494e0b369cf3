"""Reads the tensors out of a file that may be anything, and writes safetensors tensor by tensor."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentsync.errors import MediaError, WeightsError
from latentsync.files import open_regular, whole_or_nothing
from latentsync.weights import unpickle
from latentsync.weights.download import plain

DOWNLOAD_AGAIN = "fetch it again: the copy is incomplete, or it is not a weights file"
NEEDS_WEIGHTS = "give the file that holds the network's weights"
SHOWN_KEYS = 3

# What a file may ask for before its tensors are looked at; the released files stay a hundred times below.
HEADER_BYTES = 4 << 20  # the table of contents of a safetensors file
KEYS = 20_000
KEY_LETTERS = 500
SHARED = 2  # tied weights are stored once and count twice
MAPS = Path("/proc/self/maps")

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

# What a failed download leaves, by its first bytes: what it is, and what to do.
MAGICS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"<", "a web page", "the download needs a login, or a licence that was accepted"),
)


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
    with _opened(path) as file:
        content = _read_safetensors(path, file) if _is_safetensors(file) else _read_torch(path, file)
    if not content.tensors:
        raise WeightsError(f"{str(path)!r} holds no tensors", hint=NEEDS_WEIGHTS)
    _check_tensors(path, content.tensors)
    return content


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text that a safetensors file carries beside its tensors.

    Raises:
        WeightsError: it is not a safetensors file.
    """
    with _opened(path) as file:
        metadata = _read_header(path, file).get("__metadata__", {})
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as part, part.open("wb") as file:
            file.write(_header(order, tensors, formats, metadata))
            for key in order:
                tensor = tensors[key].detach()
                fitting = tensor if dtype is None else _convert(key, tensor, formats[key])
                file.write(fitting.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                forget_pages(tensor, spans)
            return file.tell()
    except OSError as error:
        hint = "check that the folder is writable and the disk has room"
        raise WeightsError(f"cannot write {str(path)!r}: {error}", hint=hint) from error


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
        raise WeightsError(f"{key!r} has NaN or infinite values", hint=DOWNLOAD_AGAIN)
    largest, limit = float(tensor.abs().max()), torch.finfo(dtype).max
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")
    hint = "use bf16, which has the range of fp32" if name == "fp16" else "use a wider number format"
    raise WeightsError(
        f"{key!r} has a value of {largest:.5g}, but the limit of {name} is {limit:.5g}", hint=hint
    )


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


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a weights file, whose first bytes are not those of something else."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
            if not start:
                raise WeightsError(f"{str(path)!r} is empty", hint=DOWNLOAD_AGAIN)
            for magic, what, hint in () if start[8:9] == b"{" else MAGICS:
                if start.startswith(magic):
                    raise WeightsError(f"{str(path)!r} is not a weights file: it is {what}", hint=hint)
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        hint = "check the path, or see `latentsync models list`"
        raise WeightsError(f"no weights file {str(path)!r}", hint=hint) from error
    except OSError as error:
        raise WeightsError(f"cannot read {str(path)!r}: {error.strerror}", hint=NEEDS_WEIGHTS) from error
    except MediaError as error:  # it is not a regular file
        raise WeightsError(str(error), hint=NEEDS_WEIGHTS) from error


def _is_safetensors(file: BinaryIO) -> bool:
    """By the brace after the length, which itself may begin like any other format."""
    start = file.read(9)
    file.seek(0)
    return start[8:9] == b"{"


def _read_torch(path: Path, file: BinaryIO) -> Content:
    try:
        content = unpickle.load(path, file)
    except unpickle.MoreThanTensors as error:
        message = f"{str(path)!r} {error}; only tensors are loaded, for safety"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error
    except unpickle.Malformed as error:
        raise WeightsError(f"{str(path)!r} {error}", hint=DOWNLOAD_AGAIN) from error
    if not isinstance(content, dict):
        message = f"{str(path)!r} holds a {type(content).__name__} instead of named tensors"
        raise WeightsError(message, hint=NEEDS_WEIGHTS)
    wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
    if wrapper is None:
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        return Content(tensors, {key: value for key, value in content.items() if key not in tensors})
    wrapped = content.pop(wrapper)
    strays = {str(key)[:KEY_LETTERS] for key, value in wrapped.items() if not isinstance(value, Tensor)}
    if strays:
        message = f"{str(path)!r} has entries among its weights that are not tensors: {name_keys(strays)}"
        raise WeightsError(message, hint=NEEDS_WEIGHTS)
    return Content(wrapped, content)


def _read_safetensors(path: Path, file: BinaryIO) -> Content:
    header = _read_header(path, file)
    strange = {str(entry.get("dtype")) for key, entry in header.items() if key != "__metadata__"}
    if strange := strange - FORMATS.keys():
        message = f"{str(path)!r} has tensors in unsupported formats: {name_keys(strange)}"
        raise WeightsError(message, hint="give the weights as fp32, fp16 or bf16")
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return Content(tensors, dict(opened.metadata() or {}))
    # Besides its own error, the reader lets some of torch's through.
    except (SafetensorError, ValueError, TypeError, RuntimeError, OverflowError, OSError) as error:
        message = f"{str(path)!r} is damaged: {plain(str(error).partition('. ')[0])}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    """The table of contents of a safetensors file, whose length is checked before it is read."""
    try:
        if not _is_safetensors(file):
            raise ValueError("it does not begin like a weights file")
        length = int.from_bytes(file.read(8), "little")
        left_bytes = os.fstat(file.fileno()).st_size - 8
        if length > min(left_bytes, HEADER_BYTES):
            raise ValueError(f"it states a header of {length} bytes in {max(left_bytes, 0)}")
        header = json.loads(file.read(length))
        if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
            raise ValueError("its header is not a table of tensors")
        return header
    except (ValueError, RecursionError) as error:  # JSON's errors and bad UTF-8 are ValueErrors
        message = f"{str(path)!r} is neither safetensors nor a torch file: {plain(str(error))}"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse keys that are no names, tensors that are no plain arrays, and more numbers than the file has."""
    if len(tensors) > KEYS:
        raise WeightsError(f"{str(path)!r} holds {len(tensors)} tensors", hint=NEEDS_WEIGHTS)
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= KEY_LETTERS:
            message = f"{str(path)!r} has a key that is not a name: {str(key)[:40]!r}"
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


def mapped_spans(path: Path) -> list[range]:
    """The addresses at which this process has mapped `path`; none but on Linux."""
    if sys.platform != "linux":
        return []
    wanted, spans = str(path.resolve()), []
    for line in MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if name == wanted:
            first, _, end = addresses.partition("-")
            spans.append(range(int(first, 16), int(end, 16)))
    return spans


def forget_pages(tensor: Tensor, spans: Sequence[range]) -> None:
    """Drop the pages under `tensor` from memory if they lie in `spans`; read again, they come from the file.

    Pages that the tensor shares with its neighbours stay. Whatever lies outside `spans` is left alone: there,
    the same request would fill memory in use with zeros.
    """
    madvise = _madvise()
    first = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size()
    end = first + tensor.nbytes
    first, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    is_mapped = any(span.start <= first and end <= span.stop for span in spans)
    if madvise is not None and first < end and is_mapped:
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


@functools.cache
def _madvise() -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), "madvise", None)
    return found
