"""A generated video beside its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.evaluate.pairs import Pair
from latentsync.evaluate.prepare import Faces, RealSide, Unfit, made_clip, real_clip
from latentsync.recipe.evaluate import Preparing

from .conftest import WriteClip


@pytest.fixture
def side(write_clip: WriteClip, faces: Faces, preparing: Preparing) -> RealSide:
    real = write_clip("real.mp4")
    pair = Pair(name="a", setting="reconstruction", video=real, sound=real, speech=real, speaker=real)
    return RealSide(pair, preparing, faces)


def test_a_copy_is_cut_where_its_input_is(side: RealSide) -> None:
    matched = made_clip(side, side.pair.video)
    assert matched.notes == []
    assert matched.clip.real_u8 is not None
    assert np.array_equal(matched.clip.made_u8, matched.clip.real_u8)
    assert np.array_equal(matched.clip.made_points, matched.clip.real_points)  # type: ignore[arg-type]
    assert len(matched.clip.speech) == 640 * len(matched.clip.made_u8)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"side": 120, "x": 60}, "120x120 px, the input 96x96: cut around its own face"),
        ({"x": 70}, "its face is elsewhere in the frame: cut around its own face"),
        ({"fps": 30}, "30 fps: shown at 25 fps by time"),
        ({"duration_s": 0.8}, "0.80 s compared, from 0.00 s on, of 0.80 s and 1.20 s"),
        ({"duration_s": 2.0}, "1.20 s compared, from 0.00 s on, of 2.00 s and 1.20 s"),
        ({"sound": None}, "no audio: the pair's speech is used"),
    ],
)
def test_what_was_done_is_said(
    side: RealSide, write_clip: WriteClip, changes: dict[str, Any], note: str
) -> None:
    matched = made_clip(side, write_clip("made.mp4", **changes))
    assert note in matched.notes
    # Wherever its face lies, it lies at the same place of the crop.
    assert matched.clip.made_points is not None and matched.clip.real_points is not None
    assert np.abs(matched.clip.made_points - matched.clip.real_points).mean() < 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"duration_s": 0.3}, "too_short"), ({"sound": 0.0}, "silent"), ({"faceless": range(5, 25)}, "no_face")],
)
def test_what_cannot_be_used(
    side: RealSide, write_clip: WriteClip, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unfit) as found:
        made_clip(side, write_clip("made.mp4", **changes))
    assert found.value.reason == reason


def test_across_speech_there_is_no_reference_but_a_speaker(
    write_clip: WriteClip, faces: Faces, preparing: Preparing, tmp_path: Path
) -> None:
    real, other = write_clip("real.mp4"), write_clip("other.mp4", duration_s=0.8, x=60)
    pair = Pair(name="a", setting="cross", video=real, sound=real, speech=other, speaker=other)
    clip = made_clip(RealSide(pair, preparing, faces), write_clip("made.mp4")).clip
    assert clip.real_u8 is None and clip.real_points is None
    assert clip.input_u8 is not None and clip.speaker_points is not None
    assert len(clip.speaker_points) == len(clip.made_u8) == 30
    assert np.isnan(clip.speaker_points[20:]).all()
    assert not np.isnan(clip.speaker_points[:20]).any()


def test_the_real_video_is_no_reference_for_itself(side: RealSide) -> None:
    clip = real_clip(side).clip
    assert clip.real_u8 is None and clip.input_u8 is None
    assert len(clip.made_u8) == 30
