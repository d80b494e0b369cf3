"""From videos to crops at 25 fps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.evaluate.pairs import Pair
from latentsync.evaluate.prepare import (
    Faces,
    RealSide,
    UnusableClip,
    made_clip,
    prepare,
    read_speech,
    real_clip,
    refuse_silent,
)
from latentsync.recipe.evaluate import Preparing

from .conftest import WriteClip


@pytest.mark.parametrize("fps", [25, 30, 50])
def test_any_frame_rate_becomes_25(
    write_clip: WriteClip, faces: Faces, preparing: Preparing, fps: int
) -> None:
    prepared = prepare(write_clip("a.mp4", fps=fps), preparing, faces)
    assert prepared.frames == 30
    # Every frame is brighter than the one before it by 1: at 25 fps by fps / 25.
    brightness = prepared.crops_u8[:, 2, 2, 0].astype(float)
    assert brightness[-1] - brightness[0] == pytest.approx(29 * fps / 25, abs=3)


def test_the_face_lies_at_the_same_place_in_every_crop(
    write_clip: WriteClip, faces: Faces, preparing: Preparing
) -> None:
    left, right = (prepare(write_clip(f"{x}.mp4", x=x), preparing, faces) for x in (40, 56))
    assert np.abs(left.points - right.points).max() < 0.5
    assert 20 < left.points[..., 0].mean() < 44


def test_a_video_may_be_cut_where_another_ones_face_is(
    write_clip: WriteClip, faces: Faces, preparing: Preparing
) -> None:
    real = prepare(write_clip("real.mp4", x=40), preparing, faces)
    made = prepare(write_clip("made.mp4", x=48), preparing, faces, like=real)
    assert np.allclose(made.crop_from_frame, real.crop_from_frame)
    assert (made.points - real.points)[..., 0].mean() > 5


def test_frames_before_the_face_and_without_it_are_known(
    write_clip: WriteClip, faces: Faces, preparing: Preparing
) -> None:
    prepared = prepare(write_clip("late.mp4", faceless=range(10)), preparing, faces)
    assert prepared.first == 10
    assert not prepared.seen[:10].any()
    assert np.isnan(prepared.points[:10]).all()
    assert not np.isnan(prepared.points[10:]).any()


def test_a_video_without_a_face_says_so(write_clip: WriteClip, faces: Faces, preparing: Preparing) -> None:
    with pytest.raises(UnusableClip) as found:
        prepare(write_clip("empty.mp4", faceless=range(99)), preparing, faces)
    assert found.value.reason == "no_face"


@pytest.mark.parametrize(("content", "reason"), [(b"not a video", "unreadable"), (None, "missing")])
def test_what_is_no_video_says_so(
    tmp_path: Path, faces: Faces, preparing: Preparing, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableClip) as found:
        prepare(path, preparing, faces)
    assert found.value.reason == reason


def test_silence_is_refused(write_clip: WriteClip) -> None:
    path = write_clip("quiet.mp4", sound=0.0)
    with pytest.raises(UnusableClip) as found:
        refuse_silent(read_speech(path, video=None, frames=30), silent_db=-60, whose="quiet.mp4")
    assert found.value.reason == "silent"


def test_sound_is_cut_to_the_frames(write_clip: WriteClip) -> None:
    speech = read_speech(write_clip("a.mp4"), video=None, frames=10)
    assert speech is not None
    assert len(speech) == 6400


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
def test_what_was_done_is_recorded(
    side: RealSide, write_clip: WriteClip, changes: dict[str, Any], note: str
) -> None:
    matched = made_clip(side, write_clip("made.mp4", **changes))
    assert note in matched.notes
    # Wherever its face is, it is at the same position in the crop.
    assert matched.clip.made_points is not None and matched.clip.real_points is not None
    assert np.abs(matched.clip.made_points - matched.clip.real_points).mean() < 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"duration_s": 0.3}, "too_short"), ({"sound": 0.0}, "silent"), ({"faceless": range(5, 25)}, "no_face")],
)
def test_what_cannot_be_used(
    side: RealSide, write_clip: WriteClip, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnusableClip) as found:
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
