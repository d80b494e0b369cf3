"""The reference's small networks, under the reference's own names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


def positional_table(steps: int, channels: int) -> Tensor:
    """Sines in the even places, cosines in the odd ones; base 10000."""
    speed = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(steps)[:, None] * speed
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


@pytest.fixture
def golden_tensors(golden: Path, synthetic: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """Makes the stand-in weights of a case."""

    def make(case: str) -> dict[str, Tensor]:
        facts = json.loads((golden / f"{case}.json").read_text())
        tables = {key: shape for key, shape in facts["state_dict"].items() if "pos_encoder" in key}
        filled = synthetic.synthetic_state_dict(facts["state_dict"], facts["salt"], frozenset(tables))
        return {**filled, **{key: positional_table(*shape[1:]) for key, shape in tables.items()}}

    return make
