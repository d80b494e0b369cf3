"""Something in front of the mouth: it is kept, or the frame is left as it is, and both are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from latentsync.faces.landmarks import choose_landmarker
from latentsync.media.read import read_frames
from latentsync.media.write import Encoding
from latentsync.types import FrameImage

SPEECH_S = 0.24
LOSSLESS = ("--codec", "lossless", "--json", "--quiet")


def lips_of(frame: FrameImage) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the outer lips in our own portrait."""
    square = (240.0, 240.0, 430.0)
    points = np.zeros((68, 2), np.float32)
    for _ in range(4):
        points, _ = choose_landmarker().points(frame, square)
        low, high = points.min(0), points.max(0)
        square = (*((low + high) / 2).tolist(), 1.5 * float((high - low).max()))
    low, high = points[48:60].min(0), points[48:60].max(0)
    return round(float(low[0])), round(float(low[1])), round(float(high[0])), round(float(high[1]))


def with_bar(frames: list[FrameImage], covered: float) -> tuple[list[FrameImage], slice]:
    """A blue bar with a caption over the lower part of the lips, and the rows that it fills."""
    left, top, right, bottom = lips_of(frames[0])
    rows = slice(round(bottom - covered * (bottom - top)), bottom + 24)
    barred = [frame.copy() for frame in frames]
    for frame in barred:
        frame[rows, max(0, left - 70) : right + 70] = (30, 60, 160)
        cv2.putText(
            frame, "LIVE NEWS", (left - 20, rows.stop - 8), cv2.FONT_HERSHEY_DUPLEX, 0.6, (255,) * 3, 1
        )
    return barred, rows


@pytest.fixture
def speech(folder: Path, cut_speech: Callable[..., Path]) -> Path:
    return cut_speech(folder / "speech.wav", SPEECH_S)


def run_on(
    frames: list[FrameImage], run_cli: Callable[..., Any], write_video: Callable[..., Path], *flags: str
) -> tuple[dict[str, Any], list[FrameImage], list[FrameImage]]:
    """The result, the frames that went in, and those that came out."""
    video = write_video(Path("in.mkv"), frames, encoding=Encoding(codec="lossless"))
    ended = run_cli("sync", video, "speech.wav", "-o", "out.mkv", *LOSSLESS, *flags)
    assert ended.code == 0, ended.err
    sources = [frame.rgb_u8 for frame in read_frames(video)]
    return json.loads(ended.out), sources, [frame.rgb_u8 for frame in read_frames(Path("out.mkv"))]


def test_a_caption_on_the_lips_stays(
    speech: Path, portrait_frames: list[FrameImage], run_cli: Callable[..., Any], write_video: Any
) -> None:
    barred, rows = with_bar(portrait_frames[:6], covered=0.25)
    found, sources, made = run_on(barred, run_cli, write_video)
    assert (found["occluded_frames"], found["frames_with_face"], found["covered_s"]) == (6, 6, [])
    for source, result in zip(sources, made, strict=True):
        change = np.abs(result.astype(int) - source).max(2)
        # A pixel of the network's 96 is about four of this frame: its edge is known to two of them.
        assert change[: rows.start - 8].max() > 10  # a new mouth above it
        assert change[rows.start + 9 : rows.stop - 9].max() <= 2


def test_a_covered_mouth_is_left_as_it_is(
    speech: Path, portrait_frames: list[FrameImage], run_cli: Callable[..., Any], write_video: Any
) -> None:
    barred, _ = with_bar(portrait_frames[:6], covered=1.4)
    found, sources, made = run_on(barred, run_cli, write_video, "--report", "report.html")
    assert (found["frames_with_face"], found["covered_s"]) == (0, [[0.0, SPEECH_S]])
    assert all(np.array_equal(source, result) for source, result in zip(sources, made, strict=True))
    page = Path("report.html").read_text(encoding="utf-8")
    assert "0.00 s to 0.24 s: mouth covered" in page


def test_it_can_be_turned_off(
    speech: Path, portrait_frames: list[FrameImage], run_cli: Callable[..., Any], write_video: Any
) -> None:
    barred, _ = with_bar(portrait_frames[:6], covered=1.4)
    found, _, _ = run_on(barred, run_cli, write_video, "--occlusion", "off")
    assert (found["frames_with_face"], found["occluded_frames"], found["covered_s"]) == (6, 0, [])


def test_the_preview_tells(
    speech: Path, portrait_frames: list[FrameImage], run_cli: Callable[..., Any], write_video: Any
) -> None:
    barred, _ = with_bar(portrait_frames[:6], covered=1.4)
    write_video(Path("in.mkv"), portrait_frames[6:12] + barred)
    ended = run_cli("sync", "in.mkv", "speech.wav", "-o", "out.mkv", "--preview", "--json", "--quiet")
    assert ended.code == 0, ended.err
    reasons = [look["why"] for look in json.loads(ended.out)["looks"]]
    assert reasons == [""] * 6 + ["mouth covered: left as it is"] * 6
