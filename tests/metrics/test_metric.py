from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.errors import ShapeError
from latentsync.metrics.image import Lpips, Psnr, Ssim
from latentsync.metrics.lips import Aperture, LandmarkDistance
from latentsync.metrics.metric import ScoredClip

Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]
CPU = torch.device("cpu")

CROPS = np.zeros((3, 8, 8, 3), np.uint8)
SPEECH = np.zeros(100, np.float32)


def squares() -> Callable[[Tensor, Tensor], Tensor]:
    """Stands in for LPIPS."""
    return lambda one, other: (one - other).square().mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"real_u8": np.zeros((3, 8, 9, 3), np.uint8)},
        {"input_u8": np.zeros((3, 16, 16, 3), np.uint8)},
        {"made_points": np.zeros((3, 5, 2), np.float32)},
        {"speech": np.zeros((1, 100), np.float32)},
    ],
    ids=["not square", "other size", "other points", "stereo"],
)
def test_a_clip_refuses_what_does_not_fit(wrong: dict[str, np.ndarray]) -> None:
    with pytest.raises(ShapeError):
        ScoredClip(**({"name": "clip", "made_u8": CROPS, "speech": SPEECH} | wrong))


def test_a_side_that_is_not_there_has_no_crops() -> None:
    clip = ScoredClip(name="clip", made_u8=CROPS, speech=SPEECH)
    assert clip.crops_u8("made").shape == (3, 8, 8, 3)
    assert clip.crops_u8("real").shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("metric", "sign"),
    [(Ssim(), 1), (Psnr(), 1), (Lpips(squares, CPU), -1), (Aperture(), 1), (LandmarkDistance(), -1)],
    ids=["ssim", "psnr", "lpips", "aperture", "lmd"],
)
def test_real_is_better_than_shifted_and_shifted_than_static(
    metric: Any,
    sign: int,
    talking: Talking,
    shifted: Change,
    static: Change,
    first_number: Callable[[Any, ScoredClip], float],
) -> None:
    clips = [talking(seed) for seed in range(4)]
    real, late, still = (
        sign * np.mean([first_number(metric, change(clip)) for clip in clips])
        for change in (lambda clip: clip, shifted, static)
    )
    assert real > late > still
