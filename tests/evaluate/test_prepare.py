"""From videos to crops at 25 fps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentsync.evaluate.prepare import Faces, Unfit, prepare, read_speech, refuse_silent
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
    with pytest.raises(Unfit) as found:
        prepare(write_clip("empty.mp4", faceless=range(99)), preparing, faces)
    assert found.value.reason == "no_face"


@pytest.mark.parametrize(("content", "reason"), [(b"not a video", "unreadable"), (None, "missing")])
def test_what_is_no_video_says_so(
    tmp_path: Path, faces: Faces, preparing: Preparing, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unfit) as found:
        prepare(path, preparing, faces)
    assert found.value.reason == reason


def test_silence_is_refused(write_clip: WriteClip) -> None:
    path = write_clip("quiet.mp4", sound=0.0)
    with pytest.raises(Unfit) as found:
        refuse_silent(read_speech(path, video=None, frames=30), silent_db=-60, whose="quiet.mp4")
    assert found.value.reason == "silent"


def test_sound_is_cut_to_the_frames(write_clip: WriteClip) -> None:
    speech = read_speech(write_clip("a.mp4"), video=None, frames=10)
    assert speech is not None
    assert len(speech) == 6400
