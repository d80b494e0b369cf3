"""A tiny Whisper with stand-in weights, in OpenAI's checkpoint layout."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


def position_table(steps: int, width: int) -> Tensor:
    """Whisper's table of positions: sines, then cosines, of falling frequency."""
    rates = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(steps)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@pytest.fixture(scope="session")
def openai_checkpoint(golden: Path, synthetic: ModuleType) -> dict[str, Any]:
    """The encoder of the golden case `whisper_small`, with a decoder tensor beside it."""
    case = json.loads((golden / "whisper_small.json").read_text())
    shapes = {name: tuple(shape) for name, shape in case["state_dict_encoder"].items()}
    tensors = synthetic.synthetic_state_dict(shapes, case["salt"], frozenset(case["skip"]))
    tensors["encoder.positional_embedding"] = position_table(*shapes["encoder.positional_embedding"])
    tensors["decoder.ln.weight"] = torch.ones(64)
    return {"dims": case["dims"], "model_state_dict": tensors}


@pytest.fixture(scope="session")
def tiny_pt(openai_checkpoint: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint as a file."""
    path = tmp_path_factory.mktemp("whisper") / "tiny.pt"
    torch.save(openai_checkpoint, path)
    return path
