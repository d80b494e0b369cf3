"""Checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError
from latentsync.train.checkpoint import export_best


def test_without_a_checkpoint_there_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(LatentSyncError, match="there is no checkpoint"):
        export_best(tmp_path / "checkpoints", tmp_path / "unet.safetensors")
