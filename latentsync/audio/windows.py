"""Which Whisper steps a video frame hears, and in which order they reach the U-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from latentsync.axes import expect_axes

WHISPER_STEPS_PER_S = 50  # the Whisper encoder gives one feature per 20 ms
STEPS_BEFORE = 4
STEPS_AFTER = 5
_TIME_TOLERANCE_STEPS = 1e-4  # 0.58 s is 28.999999999999996 steps in floating point


class StepSource(Protocol):
    """Whisper steps that may be computed where they are asked for, as `whisper.SpeechSteps` does."""

    def __len__(self) -> int:
        """Number of steps."""

    def take(self, steps: Tensor) -> Tensor:
        """The features (k n d) of the steps (k,)."""


def whisper_span(frame: int, *, video_fps: int, context_frames: int) -> range:
    """Whisper steps that video frame `frame` hears.

    Args:
        frame: index from the start of the clip.
        video_fps: frames per second; 25 throughout this package.
        context_frames: neighbours heard on either side; 2 in the paper's recipe.

    Returns:
        A range of (2 * context_frames + 1) * 50 / video_fps steps. It may begin before 0 or end
        past the audio: whoever takes the steps repeats the edge there.

    Raises:
        ValueError: if 50 is not a whole multiple of `video_fps`.

    Source: the official `Audio2Feature.get_sliced_feature` gives the same ranges at 25 fps.

    >>> whisper_span(0, video_fps=25, context_frames=2)
    range(-4, 6)
    """
    steps_per_frame, rest = divmod(WHISPER_STEPS_PER_S, video_fps)
    if rest:
        raise ValueError(f"{video_fps} fps does not divide {WHISPER_STEPS_PER_S} Whisper steps per second")
    first = (frame - context_frames) * steps_per_frame
    return range(first, first + (2 * context_frames + 1) * steps_per_frame)


def steps_for_frames(features: Tensor | StepSource, times_s: Sequence[float]) -> Tensor:
    """Gather the audio tokens of the frames shown at `times_s`.

    Args:
        features: (t n d) Whisper states at 50 Hz, or a source of them.
        times_s: when each frame is shown, from the start of the speech; the edge repeats before and after it.

    Returns:
        (f 10·n d) tokens, time-major and layer-minor: all states of the first step, then all of the second.

    Source: the official `Audio2Feature.get_sliced_feature`: steps c-4 to c+5 around c = int(50 * time).

    >>> steps_for_frames(torch.arange(20.0).reshape(20, 1, 1), [0.2]).flatten().int().tolist()
    [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    """
    if isinstance(features, Tensor):
        expect_axes(features, "t n d")
    if len(features) == 0:
        raise ValueError("there are no Whisper steps to take frames from")
    centres = [math.floor(time_s * WHISPER_STEPS_PER_S + _TIME_TOLERANCE_STEPS) for time_s in times_s]
    steps = torch.tensor(centres)[:, None] + torch.arange(-STEPS_BEFORE, STEPS_AFTER + 1)  # f t
    steps = steps.clamp(0, len(features) - 1)
    taken = features[steps.flatten()] if isinstance(features, Tensor) else features.take(steps.flatten())
    return taken.reshape(len(steps), -1, taken.shape[-1])  # f n d


def reference_frames(steps: int) -> int:
    """Number of 25 fps frames the reference makes of `steps` Whisper steps: two more than the speech has.

    Source: the official `Audio2Feature.feature2chunks`, measured.

    >>> reference_frames(500)
    252
    """
    return steps // (WHISPER_STEPS_PER_S // 25) + 2
