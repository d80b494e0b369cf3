"""A run of two steps on made-up clips: what it writes, and that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from schemas import CompactUNetRecipe
from unet import TrainCompactJob, run

from latentsync.errors import MediaError
from latentsync.events import Event, Progress, ignore
from latentsync.models.unet import build_unet
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import UNetConfig
from latentsync.weights.checkpoints import load_checkpoint

SETTINGS = (
    "frames=4",
    "batch_frames=2",
    "save_every_steps=1",
    "pixel_frames=1",
    "pixel_share=0.6",
    "hearing.steps=1",
    "hearing.batch_frames=4",
    "network.block_out_channels=[16, 16]",
    "network.attention_levels=[false, true]",
    "network.adapter_dim=16",
    "network.norm_num_groups=4",
)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums are the same from run to run only if they are split the same way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe() -> CompactUNetRecipe:
    return load_recipe("compact/unet", CompactUNetRecipe, overrides=SETTINGS)


def state_of(output: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(output / "state.pt", weights_only=True)
    return state


def stop_in_second_step(event: Event) -> None:
    if isinstance(event, Progress) and event.stage == "training" and event.done == 2:
        raise KeyboardInterrupt


def test_a_stopped_run_ends_as_if_it_had_not_been(
    make_clips: Callable[..., Path], recipe: CompactUNetRecipe, tmp_path: Path
) -> None:
    data = make_clips("news-a", "synthetic-b", "grid_s1-c", "synthetic-vasa-1_l0")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    torch.manual_seed(1)
    result = run(TrainCompactJob(data, whole), recipe, ignore)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        run(TrainCompactJob(data, stopped), recipe, stop_in_second_step)
    assert state_of(stopped)["step"] == 1
    torch.manual_seed(2)  # other first weights, which the saved ones replace
    run(TrainCompactJob(data, stopped), recipe, ignore)

    one, two = state_of(whole), state_of(stopped)
    assert one["step"] == two["step"] == 2
    for part in ("unet", "average"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(tensor, two[part][key]) for key, tensor in one[part].items()), part
    assert torch.equal(one["generator"], two["generator"]) and one["random"] == two["random"]

    assert result == whole / "unet.safetensors"
    loaded = load_checkpoint(result, kind="unet", config_type=UNetConfig, build=build_unet)
    assert all(torch.equal(tensor, one["average"][key]) for key, tensor in loaded.state_dict().items())
    prepared = {path.stem for path in (whole / "clips").iterdir()}
    assert prepared == {"news-a", "synthetic-b", "grid_s1-c"}  # the last one is held out
    assert not list(whole.rglob("*.part"))


def test_no_clips(recipe: CompactUNetRecipe, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no labelled clips"):
        run(TrainCompactJob(tmp_path, tmp_path / "out"), recipe, ignore)
