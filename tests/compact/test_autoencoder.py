"""The distillation: a stopped run goes on, and weights alone are a start."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from latentsync.models.autoencoder import TinyAutoencoderConfig
from latentsync.weights.checkpoints import read_note
from recipes.compact import autoencoder


class Shrink:
    """A teacher whose latents are colours, repeated, and whose features are those, enlarged."""

    def __init__(self, folder: Path) -> None:
        pass

    def encode(self, images_pm1: Tensor) -> Tensor:
        return functional.avg_pool2d(images_pm1, 8).repeat(1, 11, 1, 1)[:, :32]

    def features(self, latents: Tensor, levels: int) -> list[Tensor]:
        wide = latents.repeat(1, 2, 1, 1)
        return [functional.interpolate(wide, scale_factor=2**level) for level in range(levels)]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(autoencoder, "Teacher", Shrink)
    monkeypatch.setattr(autoencoder, "STORE_PATCHES", 16)
    monkeypatch.setattr(autoencoder, "FIRST_PATCHES", 8)
    monkeypatch.setattr(autoencoder, "BATCH", 2)
    monkeypatch.setattr(autoencoder, "LOG_STEPS", 2)
    small = TinyAutoencoderConfig(
        encoder_channels=(4, 4, 4),
        encoder_blocks=(1, 0, 0),
        decoder_channels=(4, 4, 4),
        decoder_blocks=(1, 0, 0),
    )
    monkeypatch.setattr(autoencoder, "TinyAutoencoderConfig", lambda: small)
    frames = tmp_path / "frames.npy"
    random = np.random.default_rng(0)
    np.save(frames, random.integers(0, 255, (2, 256, 256, 3), np.uint8))
    frames.with_name("people.json").write_text(json.dumps([["real", "q000"], ["news", "p00"]]))
    return argparse.Namespace(
        frames=frames,
        teacher=tmp_path,
        run=tmp_path / "run",
        samples=8,
        learning_rate=1e-3,
        fresh=1,
        start=None,
        store=None,
        stills=[],
    )


def test_a_run_goes_on_from_its_state_or_from_weights(arguments: argparse.Namespace, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    autoencoder.run(arguments)
    weights = arguments.run / autoencoder.WEIGHTS
    assert read_note(weights).facts == {"step": 4, "samples": 8}
    arguments.samples = 12
    autoencoder.run(arguments)
    assert read_note(weights).facts == {"step": 6, "samples": 12}
    rows = [json.loads(line) for line in (arguments.run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6] and all(row["picture"] > 0 for row in rows)
    arguments.run, arguments.start, arguments.samples = tmp_path / "other", weights, 16
    autoencoder.run(arguments)
    assert read_note(arguments.run / autoencoder.WEIGHTS).facts == {"step": 8, "samples": 16}
    torch.set_num_threads(threads)
