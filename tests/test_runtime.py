"""Which number format "auto" means, and how many threads a stage gets."""

from __future__ import annotations

import cv2
import pytest
import torch

from latentsync.runtime import choose_dtype, stage_threads


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
