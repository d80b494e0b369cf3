"""A model whose files nobody reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentsync.weights.models import ModelSpec


def made_spec(**changes: Any) -> ModelSpec:
    """A small model of one step, with `changes`."""
    nowhere = Path("nowhere")
    usual: dict[str, Any] = {
        "name": "made",
        "unet": nowhere,
        "vae": nowhere,
        "whisper": nowhere,
        "resolution": 128,
        "steps": 1,
        "guidance": 1.0,
        "overlap_frames": 0,
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
        "is_released": False,
        "note": "",
    }
    return ModelSpec(**{**usual, **changes})
