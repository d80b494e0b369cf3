"""Teaching the audio adapter: lip shapes, speech of many clips at once, a start for `train-unet`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.audio.whisper import WhisperEncoder
from latentsync.errors import RecipeError
from latentsync.events import ignore
from latentsync.recipe.loading import load_recipe
from latentsync.train.unet.start import start_unet
from latentsync.weights.read import read_tensors
from recipes.compact import adapter
from recipes.compact.adapter import (
    LIP_POINTS,
    AdapterRecipe,
    encode_clips,
    lip_shape,
    run,
)
from recipes.compact.labelled_clips import LabelledClip, find_clips
from tests.compact.trainer_runs import check_resumed_run, losses_of, tiny_run

TINY_UNET = """
extends = "compact/stage0"
# ours
[network]
block_out_channels = [16, 16]
attention_levels   = [false, true]
adapter_dim        = 16
norm_num_groups    = 4
"""


class CountingWhisper(WhisperEncoder):
    """Stands for Whisper: each state holds its position in the window."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.windows = 0

    def states(self, log_mel: Tensor) -> Tensor:
        self.windows += 1
        return torch.arange(1500.0)[None, :, None, None].expand(1, -1, 5, 4)  # b t n d


@pytest.fixture
def recipe(tmp_path: Path) -> AdapterRecipe:
    unet = tmp_path / "unet.toml"
    unet.write_text(TINY_UNET)
    settings = (
        f'unet="{unet}"',
        "audio_noise=0.0",
        *tiny_run(samples=96, batch_samples=8, learning_rate=0.05),
    )
    return load_recipe("compact/adapter", AdapterRecipe, overrides=settings)


def points_of(mouth_open_px: list[float]) -> np.ndarray:
    """A face (f 68 2) in another position in each frame, its lower lip down by `mouth_open_px`."""
    face = np.random.default_rng(1).uniform(0, 100, (68, 2)).astype(np.float32)
    frames = np.repeat(face[None], len(mouth_open_px), 0)
    frames[:, 57, 1] += mouth_open_px
    return frames + 10 * np.arange(len(mouth_open_px), dtype=np.float32)[:, None, None]


def test_lips_are_measured_against_nose_and_median() -> None:
    shape = lip_shape(points_of([0.0, 0.0, 6.0]))
    assert shape.shape == (3, 2 * len(LIP_POINTS))
    moved = 2 * LIP_POINTS.index(57) + 1
    assert shape[:, moved] == pytest.approx([0, 0, 6], abs=1e-4)
    assert np.abs(np.delete(shape, moved, axis=1)).max() < 1e-4


def test_each_clip_gets_its_part_of_a_shared_window(make_clips: Callable[..., Path]) -> None:
    clips = find_clips(make_clips("a", "b", "c", frames=5, side_px=2))
    whisper = CountingWhisper()
    states = encode_clips(clips, whisper, ignore)
    assert whisper.windows == 1
    assert [len(each) for each in states] == [23, 23, 23]  # 7200 samples
    assert [int(each[0, 0, 0]) for each in states] == [0, 43, 86]  # 23 states and a pause of 20


def test_it_learns_resumes_and_writes_a_start(
    make_clips: Callable[..., Path],
    recipe: AdapterRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made_states(clips: list[LabelledClip], *_: object) -> list[Tensor]:
        return [torch.randn(30, 5, 384, generator=torch.Generator().manual_seed(1)) for _ in clips]

    monkeypatch.setattr(adapter, "encode_clips", made_states)
    data = make_clips("news-a", "synthetic-vasa-1_l0", side_px=2)  # the second is held out
    weights = check_resumed_run(
        lambda output, report: run(data, output, recipe, report), tmp_path / "whole", tmp_path / "stopped"
    )
    losses = losses_of(tmp_path / "whole", "lips")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    unet, start = start_unet(adapter.start_config(recipe), weights)
    assert not start.new and not start.left_out
    assert all(torch.equal(tensor, unet.state_dict()[key]) for key, tensor in read_tensors(weights).items())


def test_a_unet_without_an_adapter(
    make_clips: Callable[..., Path], recipe: AdapterRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "encode_clips", lambda *_: [torch.zeros(30, 5, 384)])
    Path(recipe.unet).write_text(TINY_UNET.replace("adapter_dim        = 16", "adapter_dim = 0"))
    with pytest.raises(RecipeError, match="no audio adapter"):
        run(make_clips("a", side_px=2), tmp_path / "out", recipe, ignore)
