from __future__ import annotations

import numpy as np
import pytest

from latentsync.errors import ShapeError
from latentsync.metrics.metric import ScoredClip

CROPS = np.zeros((3, 8, 8, 3), np.uint8)
SPEECH = np.zeros(100, np.float32)


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
