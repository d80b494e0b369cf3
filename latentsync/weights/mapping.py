"""Gives back the memory of a mapped file, page by page, so that converting a file never holds it twice."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

MAPS = Path("/proc/self/maps")


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
