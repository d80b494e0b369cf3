"""What can be seen before and after a run: preview, the estimate of a dry run, and the report as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import scipy.io.wavfile

from latentsync import __version__
from latentsync.media.probe import probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter
from latentsync.types import FrameImage

SPEECH_S = 0.2


@pytest.fixture
def video(
    folder: Path,
    portrait_frames: list[FrameImage],
    black_frames: Callable[[int], list[FrameImage]],
    write_video: Callable[..., Path],
    cut_speech: Callable[..., Path],
) -> Path:
    """Twelve frames with a face, twelve without."""
    cut_speech(folder / "speech.wav", SPEECH_S)
    return write_video(folder / "half.mp4", portrait_frames[:12] + black_frames(12))


def test_the_preview_shows_what_is_found_and_a_piece_of_the_result(
    video: Path, run_cli: Callable[..., Any]
) -> None:
    ended = run_cli("sync", video, "speech.wav", "-o", "out.mp4", "--preview", "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["sheet"], found["clip"]) == ("out_preview.jpg", "out_preview.mp4")
    assert [bool(look["face_px"]) for look in found["looks"]] == [True] * 6 + [False] * 6
    assert found["looks"][-1]["why"] == "no face: left as it is"
    sheet = cv2.imread(found["sheet"])
    assert sheet.shape == (3 * 426, 4 * 400, 3)
    first, last = sheet[:400, :400].astype(int), sheet[-20:, -100:].astype(int)
    assert np.any((first[..., 1] > 180) & (first[..., 0] < 120) & (first[..., 2] < 120))  # landmarks, in BGR
    assert last[..., 2].mean() > 150 > last[..., 1].mean()  # the band below a frame that is left as it is
    clip = probe(Path("out_preview.mp4")).video
    assert clip is not None and clip.frames == 5
    assert not Path("out.mp4").exists()
    again = run_cli("sync", video, "speech.wav", "-o", "out.mp4", "--preview")
    assert again.code == 2 and "'out_preview.jpg': exists already" in again.err


def test_a_dry_run_estimates_the_time(video: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("sync", video, "speech.wav", "--dry-run")
    assert ended.code == 0 and re.search(r"^time    about \d+ s$", ended.err, re.MULTILINE)


def test_the_report_is_a_page_that_holds_everything(video: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("sync", video, "speech.wav", "--duration", "video", "--report", "out.html", "--quiet")
    assert ended.code == 0
    page = Path("out.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 8
    assert "0.48 s to 0.96 s: no face" in page
    assert "Not measured: " in page  # half a second is too short for a judge
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_report_of_another_kind_is_refused(video: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("sync", video, "speech.wav", "--report", "out.pdf")
    assert ended.code == 2 and "unknown kind of report '.pdf'" in ended.err


def test_the_original_sound_stays_under_the_speech(
    folder: Path,
    portrait_frames: list[FrameImage],
    cut_speech: Callable[..., Path],
    run_cli: Callable[..., Any],
) -> None:
    rate_hz = 48_000
    hum = 0.25 * np.sin(2 * np.pi * 3000 * np.arange(rate_hz) / rate_hz)
    scipy.io.wavfile.write(folder / "hum.wav", rate_hz, hum.astype(np.float32))
    with VideoWriter(
        folder / "in.mp4",
        width=480,
        height=480,
        fps=Fraction(25),
        like=None,
        speech=folder / "hum.wav",
        encoding=Encoding(preset="ultrafast"),
    ) as writer:
        for image in portrait_frames[:10]:
            writer.write(image)
    cut_speech(folder / "speech.wav", SPEECH_S)
    flags = ("-o", "out.mp4", "--keep-audio", "mix:-6", "--label", "synthetic", "--quiet")
    assert run_cli("sync", "in.mp4", "speech.wav", *flags).code == 0
    samples = read_audio(Path("out.mp4"), rate_hz=rate_hz).samples[2000:9000]
    spectrum = np.abs(np.fft.rfft(samples))
    near = np.arange(len(spectrum)) * rate_hz / len(samples)
    hum_bins, above = np.abs(near - 3000) < 50, (near > 3500) & (near < 4500)
    assert spectrum[hum_bins].max() > 10 * np.median(spectrum[above])
    with av.open("out.mp4") as made:
        assert made.metadata["comment"].startswith(f"synthetic mouth, latentsync {__version__}")
    first_frames = [next(iter(read_frames(Path(name)))).rgb_u8 for name in ("in.mp4", "out.mp4")]
    before, after = (rgb_u8[-40:, :100].astype(int) for rgb_u8 in first_frames)
    assert np.abs(after - before).max() > 60
