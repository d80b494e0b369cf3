"""When a run says that it does not learn, and what it says."""

from __future__ import annotations

import pytest

from latentsync.train.log import Row
from latentsync.train.syncnet.watch import explain_plateau, find_plateau
from tests.networks import PAPER_RECIPE


def rows_of(*losses: float, chance: float | None = None, steps: int = 40) -> list[Row]:
    names = ("bce",) if chance is None else ("contrastive", "chance")
    return [
        {
            "samples": number * 1000,
            "steps": number * steps,
            "losses": dict(zip(names, (loss, chance), strict=False)),
        }
        for number, loss in enumerate(losses, 1)
    ]


def test_a_loss_at_chance_is_a_plateau() -> None:
    plateau = find_plateau(rows_of(*[0.6931, 0.694] * 5))
    assert plateau is not None
    assert (plateau.samples, plateau.steps) == (10_000, 400)


def test_validation_rows_do_not_hide_it() -> None:
    rows: list[Row] = [*rows_of(*[0.693] * 9), {"samples": 9000, "steps": 360, "validation": {"loss": 0.5}}]
    assert find_plateau(rows) is not None


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(*[0.693] * 9, 0.68),  # it begins to learn
        rows_of(*[0.693] * 7),  # too few rows
        rows_of(*[0.693] * 9, steps=5),  # too few steps
        rows_of(*[0.6] * 9),
        rows_of(*[0.693] * 9, chance=2.0),  # a contrastive loss below its chance
    ],
)
def test_anything_else_is_none(rows: list[Row]) -> None:
    assert find_plateau(rows) is None


def test_the_contrastive_loss_has_its_own_chance() -> None:
    assert find_plateau(rows_of(*[2.0] * 9, chance=2.001)) is not None


def test_causes_come_in_the_paper_s_order_with_this_run_s_values() -> None:
    plateau = find_plateau(rows_of(*[0.693] * 9))
    assert plateau is not None
    output = explain_plateau(plateau, PAPER_RECIPE, clips=12, checked=3)
    assert "0.693" in output
    order = [
        output.index(word)
        for word in ("batch: 1024", "frames: 16", "offset: 3 of 12", "data: 12", "architecture")
    ]
    assert order == sorted(order)
