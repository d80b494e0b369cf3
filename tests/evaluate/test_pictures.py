"""Methods under one another as in the paper's figure 10, and clips that play beside their input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.evaluate.pictures import HEIGHT_PX, choose_shown, play_beside, stack_methods
from latentsync.media.probe import probe
from latentsync.media.read import read_frames

WriteClip = Callable[..., Path]


def jpeg(*greys: int) -> bytes:
    """Rows of six frames of 16 px, of one grey level each."""
    rows = [np.full((16, 96, 3), grey, np.uint8) for grey in greys]
    return bytes(cv2.imencode(".jpg", np.vstack(rows))[1].tobytes())


def test_methods_stand_under_the_lips_they_should_have() -> None:
    stacked = stack_methods(jpeg(10), {"real": jpeg(50), "A": jpeg(100, 150), "B": jpeg(100, 200)})
    assert stacked is not None
    names, encoded = stacked
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert names == ["speaker", "real", "input", "A", "B"] and picture is not None
    assert picture[8::16, 48, 0].tolist() == pytest.approx([10, 50, 100, 150, 200], abs=3)
    assert stack_methods(None, {}) is None


def test_the_first_clip_is_shown_or_those_that_are_named() -> None:
    assert choose_shown(["a", "b", "c"], ()) == ["a"]
    assert choose_shown(["a", "b", "c"], ("c", "a")) == ["a", "c"]


def test_a_clip_plays_beside_its_input_with_its_sound(write_clip: WriteClip, tmp_path: Path) -> None:
    source, made = write_clip("source.mp4", duration_s=0.8), write_clip("made.mp4", duration_s=0.6)
    content = play_beside(source, made)
    assert content is not None
    (tmp_path / "both.mp4").write_bytes(content)
    info = probe(tmp_path / "both.mp4")
    assert info.video is not None and info.audio is not None
    assert info.video.height == HEIGHT_PX
    frames = [frame.rgb_u8 for frame in read_frames(tmp_path / "both.mp4")]
    assert len(frames) == 15
    half = frames[0].shape[1] // 2
    assert np.abs(frames[3][:, :half].astype(int) - frames[3][:, half:]).mean() < 8


def test_a_video_that_cannot_be_read_is_left_out(write_clip: WriteClip, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    assert play_beside(write_clip("source.mp4"), tmp_path / "broken.mp4") is None
