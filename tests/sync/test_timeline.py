"""Which frame of the source is shown when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from latentsync.faces.track import TrackedFrame
from latentsync.media.probe import require_video
from latentsync.media.read import measure_video
from latentsync.media.write import Encoding, VideoWriter
from latentsync.sync.timeline import Duration, SquarePixels, frame_count, play, shown_fps
from latentsync.types import AffineFrame, Face, Frame

MakeClip = Callable[..., Path]
FPS = 25
DURATIONS = get_args(Duration)
UNEVEN_S = (0.0, 0.2, 0.4, 0.44, 0.48)


def numbers_of(frames: list[Frame]) -> str:
    """Which frames of the source these are, as digits."""
    return "".join(str(round(float(frame.rgb_u8.mean()) / 25)) for frame in frames)


def played(path: Path, policy: Duration, duration_s: float, **part: float) -> list[Frame]:
    return list(play(path, require_video(path), policy=policy, duration_s=duration_s, **part))


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Encodes plain grey frames whose level says their number."""

    def make(frames: int = 4, times_s: tuple[float, ...] | None = None) -> Path:
        path = tmp_path / "clip.mp4"
        lossless = Encoding(codec="lossless")
        with VideoWriter(path, width=32, height=24, fps=Fraction(FPS), encoding=lossless) as writer:
            for number in range(frames if times_s is None else len(times_s)):
                picture = np.full((24, 32, 3), 25 * number, np.uint8)
                writer.write(picture, None if times_s is None else times_s[number])
        return path

    return make


@pytest.mark.parametrize(
    ("duration_s", "frames"), [(0.0, 1), (0.04, 1), (0.0405, 2), (0.12000001, 3), (4.9325, 124)]
)
def test_frames_that_cover_a_duration(duration_s: float, frames: int) -> None:
    assert frame_count(duration_s, FPS) == frames


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ("speech", "01233210012"),
        ("ping-pong", "01233210012"),
        ("loop", "01230123012"),
        ("hold", "01233333333"),
        ("video", "0123"),
    ],
)
def test_what_follows_the_end_of_the_video(policy: Duration, shown: str, make_clip: MakeClip) -> None:
    frames = played(make_clip(), policy, 11 / FPS)
    assert numbers_of(frames) == shown
    assert [frame.index for frame in frames] == list(range(len(shown)))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(len(shown)) / FPS)


@pytest.mark.parametrize("policy", DURATIONS)
def test_a_longer_video_is_cut(policy: Duration, make_clip: MakeClip) -> None:
    assert numbers_of(played(make_clip(), policy, 2.5 / FPS)) == "012"


@pytest.mark.parametrize("policy", DURATIONS)
def test_a_picture_is_held(policy: Duration, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), np.full((24, 32, 3), 75, np.uint8))
    frames = played(path, policy, 5 / 25)
    assert numbers_of(frames) == "33333"
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(5) / 25)


@pytest.mark.parametrize(("policy", "shown"), [("ping-pong", "233223"), ("loop", "232323"), ("video", "23")])
def test_only_the_chosen_part_is_used(policy: Duration, shown: str, make_clip: MakeClip) -> None:
    frames = played(make_clip(6), policy, 6 / FPS, start_s=2 / FPS, end_s=4 / FPS)
    assert numbers_of(frames) == shown


@pytest.mark.parametrize("policy", DURATIONS)
@pytest.mark.parametrize("end_s", [None, 0.42])
def test_uneven_frames_keep_their_times_and_go_on_evenly(
    policy: Duration, end_s: float | None, make_clip: MakeClip
) -> None:
    path = make_clip(times_s=UNEVEN_S)
    info = require_video(path)
    assert info.is_variable
    frames = list(play(path, info, policy=policy, duration_s=1.5, end_s=end_s))
    times_s = [frame.time_s for frame in frames]
    assert times_s[:3] == pytest.approx(UNEVEN_S[:3], abs=1e-3)
    assert min(later - earlier for earlier, later in pairwise(times_s)) > 0.03
    if policy != "video":
        assert 1.5 - times_s[-1] <= 0.25  # the longest step of the source
    assert times_s[-1] < 1.5


def test_turning_round_mirrors_uneven_steps(make_clip: MakeClip) -> None:
    frames = played(make_clip(times_s=UNEVEN_S), "ping-pong", 1.15)
    steps_s = np.diff([frame.time_s for frame in frames])
    assert numbers_of(frames).startswith("0123443210")
    assert steps_s[5:9] == pytest.approx(steps_s[:4][::-1], abs=1e-3)


def test_one_frame_is_shown_however_short_the_speech(make_clip: MakeClip) -> None:
    assert numbers_of(played(make_clip(), "speech", 0.0)) == "0"


@pytest.mark.parametrize(
    ("times_s", "fps"),
    [((0.0, 1.0, 2.0), 25), ((0.0, 0.04, 0.08, 1.5, 1.54), 25), ((0.0, 0.3, 0.6, 0.9), 80 / 3)],
)
def test_frames_that_are_shown_for_long_are_repeated(
    make_clip: MakeClip, times_s: tuple[float, ...], fps: float
) -> None:
    path = make_clip(times_s=times_s)
    info = measure_video(path)
    assert shown_fps(info, keep_fps=True) == info.fps
    rate = shown_fps(info, keep_fps=False)
    assert float(rate) == pytest.approx(fps, rel=0.01)
    frames = list(play(path, info, policy="speech", duration_s=2.2, fps=rate))
    times = [frame.time_s for frame in frames]
    assert times[0] == 0 and times[-1] >= 2.2 - 1 / 25 - 0.01
    assert all(0.02 < later - earlier < 0.041 for earlier, later in pairwise(times))
    shown = {round(frame.time_s, 3): numbers_of([frame]) for frame in frames}
    for number, time_s in enumerate(times_s):
        assert shown[round(time_s, 3)] == str(number)


def test_faces_in_square_pixels_lie_where_they_are_stored(make_clip: MakeClip) -> None:
    """Pixels are four thirds as wide as high; what is found is brought back to the 32 stored columns."""
    info = replace(require_video(make_clip()), pixel_aspect=Fraction(4, 3))
    pixels = SquarePixels(info)
    stored = Frame(np.zeros((24, 32, 3), np.uint8), 0, 0.0)
    (square,) = pixels.squared(iter([stored]))
    assert square.rgb_u8.shape == (24, 43, 3)
    points = np.array([[42.5, 10.0], [-0.5, 3.0]], np.float32)  # the right and the left edge
    crop_from_square = np.array([[2.0, 0, 3.0], [0, 2.0, 5.0]])
    face = Face(np.array([-0.5, 0, 42.5, 9], np.float32), 1.0, points)
    (tracked,) = pixels.restored(iter([TrackedFrame(square, face, AffineFrame(crop_from_square, 128))]))
    assert tracked.frame is stored and tracked.face is not None and tracked.affine is not None
    assert tracked.face.points[:, 0] == pytest.approx([31.5, -0.5])
    assert tracked.face.box == pytest.approx([-0.5, 0, 31.5, 9])
    edge = tracked.affine.crop_from_frame @ [31.5, 10.0, 1.0]
    assert edge == pytest.approx(crop_from_square @ [42.5, 10.0, 1.0])
