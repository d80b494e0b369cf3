"""Two people in one video, each with speech of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.media.probe import probe
from latentsync.media.read import read_frames
from latentsync.types import FrameImage
from tests.conftest import RunCli


@pytest.fixture
def two_people(folder: Path, portrait_frames: list[FrameImage], write_video: Callable[..., Path]) -> Path:
    """Our portrait, and beside it somebody in other colours, mirrored."""

    def other(rgb_u8: FrameImage) -> FrameImage:
        lab = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2LAB).astype(np.float32) * [0.75, 1, 1] + [0, -6, 14]
        return np.asarray(cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB))[:, ::-1]

    frames = [np.hstack([frame, other(frame)]) for frame in portrait_frames]
    return write_video(folder / "two.mp4", frames)


def test_each_of_a_cast_gets_a_new_mouth(
    folder: Path,
    two_people: Path,
    tiny_model: Path,
    cut_speech: Callable[..., Path],
    run_cli: RunCli,
) -> None:
    for name in ("a.wav", "b.wav"):
        cut_speech(folder / name, 0.4)
    (folder / "cast.csv").write_text("who,speech,from\nleft,a.wav,0\nright,b.wav,0.2\n")
    command = ("sync", two_people, "--cast", "cast.csv", "-o", "o.mp4", "--model", tiny_model, "--json")
    ended = run_cli(*command, "--compare", "--report", "r.json")
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    frames = made["frames"]
    assert frames == 15 and made["cast"] == {"left": 15, "right": 15}
    sound = probe(folder / "o.mp4").audio
    assert sound is not None and sound.duration_s == pytest.approx(0.6, abs=0.05)
    source, result = np.split(np.stack([frame.rgb_u8 for frame in read_frames(folder / "o.mp4")]), 2, axis=2)
    change = np.abs(source.astype(int) - result).max(-1).mean(0)  # h w
    left, right = np.split(change, 2, axis=1)
    assert min(left.max(), right.max()) > 20
    assert np.median(change) < 4
    report = json.loads((folder / "r.json").read_text())
    assert report["speech"] == ["a.wav", "b.wav"]


def test_two_names_of_one_face_are_refused(
    folder: Path, two_people: Path, cut_speech: Callable[..., Path], run_cli: RunCli
) -> None:
    cut_speech(folder / "a.wav", 0.4)
    (folder / "cast.csv").write_text("who,speech\nleft,a.wav\n0,a.wav\n")
    ended = run_cli("sync", two_people, "--cast", "cast.csv", "-o", "o.mp4", "--dry-run")
    assert ended.code == 2 and "'left' and '0' are the same face at 0.00 s" in ended.err
