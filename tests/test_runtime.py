"""Which number format "auto" means, how many threads a stage gets, and what happens to freed memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from pathlib import Path

import cv2
import pytest
import torch

from latentsync.errors import UsageError
from latentsync.runtime import choose_devices, choose_dtype, release_memory, stage_threads


@pytest.mark.parametrize(
    ("device", "is_fast", "is_exact", "expected"),
    [
        ("cuda", True, True, torch.float16),
        ("cpu", True, False, torch.bfloat16),
        ("cpu", True, True, torch.float32),
        ("cpu", False, False, torch.float32),
    ],
)
def test_auto_is_the_fastest_format_that_is_near_enough(
    device: str, is_fast: bool, is_exact: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentsync.runtime.has_fast_bfloat16", lambda: is_fast)
    assert choose_dtype("auto", torch.device(device), is_exact=is_exact) == expected


def test_a_named_format_is_used_everywhere() -> None:
    assert choose_dtype("fp32", torch.device("cuda"), is_exact=True) == torch.float32


def test_threads_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setattr("latentsync.runtime.usable_cores", lambda: 1)
    with pytest.raises(ZeroDivisionError), stage_threads():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        raise ZeroDivisionError
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_objects_in_a_circle_are_freed() -> None:
    class Frame:
        side: object = None

    gc.disable()
    try:
        frame, side = Frame(), Frame()
        frame.side, side.side = side, frame
        seen = weakref.ref(frame)
        del frame, side
        assert seen() is not None
        release_memory()
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_is_free_below_a_block_in_use_goes_back_to_the_system() -> None:
    def resident_pages() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])

    blocks = [bytearray(1000) for _ in range(100_000)]
    last = blocks.pop()
    blocks.clear()
    before = resident_pages()
    release_memory()
    assert before - resident_pages() > 40_000_000 // 4096
    assert len(last) == 1000


def test_devices_are_named_with_commas() -> None:
    assert choose_devices("cpu") == [torch.device("cpu")]
    with pytest.raises(UsageError, match="named twice"):
        choose_devices("cpu,cpu")
    with pytest.raises(UsageError, match="no such device"):
        choose_devices("cpu,tpu")
