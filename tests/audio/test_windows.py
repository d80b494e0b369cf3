"""Which Whisper states the frames hear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentsync.audio.windows import states_for_frames


def numbered(steps: int, *, states: int = 1) -> torch.Tensor:
    """Features whose value is ten times the step, plus the state."""
    return (torch.arange(steps)[:, None] * 10 + torch.arange(states))[:, :, None].float()


@pytest.mark.parametrize("fps", ["25", "30", "24", "50", "23.976"])
def test_frames_get_the_states_of_the_reference(golden: Path, fps: str) -> None:
    case = json.loads((golden / "whisper_windows.json").read_text())
    selected = case["selected_index"][fps]
    tokens = states_for_frames(numbered(case["n_features"]), [int(frame) / float(fps) for frame in selected])
    assert (tokens[:, :, 0] / 10).tolist() == list(selected.values())


def test_tokens_are_time_major_and_layer_minor() -> None:
    tokens = states_for_frames(numbered(40, states=3), [0.4])
    assert tokens.shape == (1, 30, 1)
    assert tokens[0, :6, 0].tolist() == [160, 161, 162, 170, 171, 172]


def test_every_25_fps_frame_starts_on_its_own_step_despite_rounding() -> None:
    tokens = states_for_frames(numbered(2100), [frame / 25 for frame in range(1000)])
    assert (tokens[:, 4, 0] / 10).tolist() == [2 * frame for frame in range(1000)]


def test_edges_repeat_before_and_after_the_speech() -> None:
    tokens = states_for_frames(numbered(20), [-1.0, 9.0])
    assert tokens.flatten(1).unique(dim=1).tolist() == [[0], [190]]


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="no Whisper states"):
        states_for_frames(torch.zeros(0, 5, 8), [0.0])


@pytest.mark.parametrize("context_frames", [0, 1, 5])
def test_more_or_fewer_neighbours_are_taken(context_frames: int) -> None:
    tokens = states_for_frames(numbered(100), [20 / 25], context_frames=context_frames)
    span = range(2 * (20 - context_frames), 2 * (20 + context_frames + 1))
    assert (tokens[0, :, 0] / 10).tolist() == list(span)
