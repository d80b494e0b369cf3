"""What validation says of networks whose answers are known."""

from __future__ import annotations

import pytest
import torch

from latentsync.train.syncnet.validate import measure


def test_a_perfect_network() -> None:
    measured = measure(torch.eye(40) * 0.9 + 0.05, number=0, seed=1)
    assert measured["accuracy"] == measured["balanced_accuracy"] == measured["offset_accuracy"] == 1
    assert measured["loss"] < 0.06
    assert measured["cosine_by_shift/+00"] == pytest.approx(0.95)
    assert measured["cosine_by_shift/-15"] == pytest.approx(0.05)


def test_a_network_that_says_always_the_same() -> None:
    measured = measure(torch.full((40, 40), 0.5), number=0, seed=1)
    assert measured["balanced_accuracy"] == 0.5
    assert measured["offset_accuracy"] == 0
    assert measured["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(("shift", "wanted"), [(0, 1.0), (1, 1.0), (-1, 1.0), (2, 0.0), (-7, 0.0)])
def test_one_frame_beside_counts_as_right(shift: int, wanted: float) -> None:
    late = torch.diag(torch.ones(40 - abs(shift)), shift)
    assert measure(late, number=0, seed=1)["offset_accuracy"] == wanted


def test_too_few_windows_for_shifts_leave_them_out() -> None:
    assert "offset_accuracy" not in measure(torch.eye(4), number=0, seed=1)
