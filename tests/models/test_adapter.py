"""The audio adapter of the compact model: shapes, positions and what it tells apart."""

from __future__ import annotations

import pytest
import torch

from latentsync.axes import ShapeError
from latentsync.models.adapter import STATES, STEPS, AudioAdapter

STATES_DIM, DIM = 12, 8


@pytest.fixture(scope="module")
def adapter() -> AudioAdapter:
    torch.manual_seed(1)
    return AudioAdapter(states_dim=STATES_DIM, dim=DIM, dropout=0.5).eval()


def random_states(frames: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(frames, STEPS * STATES, STATES_DIM, generator=generator)


@torch.inference_mode()
def test_a_token_a_step_and_one_summary(adapter: AudioAdapter) -> None:
    tokens, summary = adapter(random_states())
    assert tokens.shape == (3, STEPS, DIM)
    assert torch.allclose(summary, tokens.mean(1))


@torch.inference_mode()
def test_frames_do_not_depend_on_each_other(adapter: AudioAdapter) -> None:
    together, alone = adapter(random_states())[0], adapter(random_states()[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-6)


@torch.inference_mode()
def test_the_order_of_the_states_counts(adapter: AudioAdapter) -> None:
    steps = random_states().unflatten(1, (STEPS, STATES))
    backward = steps.flip(1).flatten(1, 2)
    assert not torch.allclose(adapter(random_states())[1], adapter(backward)[1], atol=1e-3)


def test_another_window_is_refused(adapter: AudioAdapter) -> None:
    with pytest.raises(ShapeError, match="must be 50, got 45"):
        adapter(random_states()[:, :45])
