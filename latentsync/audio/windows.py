"""Which Whisper states condition a video frame, and in which order they reach the U-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from latentsync.axes import expect_axes
from latentsync.rates import STATES_PER_FRAME, WHISPER_STATES_PER_S

CONTEXT_FRAMES = 2  # neighbouring frames on either side whose states condition a frame: the paper's m
_TIME_TOLERANCE_STATES = 1e-4  # 0.58 s is 28.999999999999996 states in floating point


class StateSource(Protocol):
    """Whisper states that may be computed where they are asked for, as `whisper.SpeechStates` does."""

    def __len__(self) -> int:
        """Number of states."""

    def take(self, indices: Tensor) -> Tensor:
        """The states (k n d) at the indices (k,)."""


def states_for_frames(
    features: Tensor | StateSource, times_s: Sequence[float], *, context_frames: int = CONTEXT_FRAMES
) -> Tensor:
    """Gather the audio tokens of the frames shown at `times_s`.

    Args:
        features: (t n d) Whisper states at 50 Hz, or a source of them.
        times_s: when each frame is shown, from the start of the speech; the edge repeats before and after it.
        context_frames: neighbouring frames whose states are added on either side.

    Returns:
        (f (4m+2)·n d) tokens with m neighbours, time-major and layer-minor: all states of the first step,
        then all of the second.

    Source: the official `Audio2Feature.get_sliced_feature`: states c-4 to c+5 around c = int(50 * time).

    >>> states_for_frames(torch.arange(20.0).reshape(20, 1, 1), [0.2]).flatten().int().tolist()
    [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    """
    if isinstance(features, Tensor):
        expect_axes(features, "t n d")
    if len(features) == 0:
        raise ValueError("there are no Whisper states to take frames from")
    centres = [math.floor(time_s * WHISPER_STATES_PER_S + _TIME_TOLERANCE_STATES) for time_s in times_s]
    before, taken_states = context_frames * STATES_PER_FRAME, states_per_frame(context_frames)
    indices = torch.tensor(centres)[:, None] + torch.arange(-before, taken_states - before)  # f t
    indices = indices.clamp(0, len(features) - 1)
    taken = features[indices.flatten()] if isinstance(features, Tensor) else features.take(indices.flatten())
    return taken.reshape(len(indices), -1, taken.shape[-1])  # f n d


def states_per_frame(context_frames: int) -> int:
    """How many Whisper states condition a frame with as many neighbours on either side.

    >>> states_per_frame(2)
    10
    """
    return (2 * context_frames + 1) * STATES_PER_FRAME
