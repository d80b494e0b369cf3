"""Numbers that docs and cards state are those in `benchmarks/results`: `numbers.toml` says which is where.

Whoever measures anew sees here what to rewrite; a number that is stated anew gets an entry.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
STATED = tomllib.loads(Path(__file__).with_name("numbers.toml").read_text(encoding="utf-8"))["number"]
NUMBER = r"(-?[0-9][0-9,]*\.?[0-9]*)"


def stated_in(page: str, text: str) -> str:
    """The number in the place of @, as it is written."""
    content = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
    found = re.findall(NUMBER.join(map(re.escape, text.split("@"))), content)
    assert len(found) == 1, f"{page} has {len(found)} times: {text}"
    number: str = found[0].replace(",", "")
    return number


def value_at(results: Any, key: str) -> float:
    for part in key.split("."):
        results = results[int(part) if isinstance(results, list) else part]
    return float(results)


@pytest.mark.parametrize(
    "number", STATED, ids=lambda number: f"{Path(number['page']).stem}: {number['text']}"
)
def test_a_stated_number_is_the_measured_one(number: dict[str, Any]) -> None:
    stated = stated_in(number["page"], number["text"])
    results = json.loads((RESULTS / f"{number['file']}.json").read_text(encoding="utf-8"))
    measured = number.get("unit", 1) * value_at(results, number["key"])
    digits = len(stated.partition(".")[2])
    assert float(stated) == pytest.approx(measured, abs=0.51 * 10**-digits)
