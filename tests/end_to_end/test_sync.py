"""Whole runs with the model that is used by default: from files to a file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync import __version__
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import choose_landmarker
from latentsync.media.probe import probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter
from latentsync.runtime import has_fast_bfloat16
from latentsync.types import Frame, FrameImage
from tests.conftest import RunCli

EXECUTABLE = Path(sys.executable).parent / "latentsync"
SPEECH_S = 1.0
MOUTH = slice(48, 68)  # of the 68 points


def frames_of(path: Path, **part: float) -> list[FrameImage]:
    return [frame.rgb_u8 for frame in read_frames(path, **part)]


def face_points(rgb_u8: FrameImage) -> NDArray[np.float32]:
    follower = Follower(FaceChoice(), Detector(), choose_landmarker(), FollowSettings())
    sight = follower.see(Frame(rgb_u8, 0, 0.0))
    assert sight.points is not None
    return sight.points


def change_of(made: FrameImage, source: FrameImage) -> NDArray[np.int_]:
    """By how many grey levels each pixel differs (h w)."""
    return np.abs(made.astype(int) - source.astype(int)).max(-1)


def inside(points: NDArray[np.float32], *, margin: float) -> tuple[slice, slice]:
    """Rows and columns of the box around points, wider by `margin` of its sides on every side."""
    low, high = points.min(0), points.max(0)
    (left, top), (right, bottom) = low - margin * (high - low), high + margin * (high - low)
    return slice(max(0, int(top)), int(bottom)), slice(max(0, int(left)), int(right))


@pytest.fixture(scope="module")
def plain_run(
    tmp_path_factory: pytest.TempPathFactory, portrait: Path, cut_speech: Callable[..., Path]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run of the installed executable, as in the README, for the tests that look at its result."""
    folder = tmp_path_factory.mktemp("plain")
    cut_speech(folder / "speech.wav", SPEECH_S)
    command = [EXECUTABLE, "sync", portrait, "speech.wav", "-o", "out.mp4", "--report", "report.json"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_result_is_as_long_as_the_speech_and_like_the_video(
    plain_run: tuple[Path, subprocess.CompletedProcess[str]], portrait: Path
) -> None:
    folder, ended = plain_run
    assert (ended.returncode, ended.stdout) == (0, "out.mp4\n"), ended.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "report.json", "speech.wav"]
    made, source = probe(folder / "out.mp4"), probe(portrait)
    assert made.video is not None and source.video is not None and made.audio is not None
    assert (made.video.width, made.video.height) == (source.video.width, source.video.height)
    assert (made.video.fps, made.video.codec) == (source.video.fps, "h264")
    frames = frames_of(folder / "out.mp4")
    assert len(frames) == made.video.frames == math.ceil(SPEECH_S * float(source.video.fps))
    speech = read_audio(folder / "speech.wav").samples
    audio = read_audio(folder / "out.mp4").samples[: len(speech)]
    assert np.corrcoef(audio, speech[: len(audio)])[0, 1] > 0.9
    assert (made.audio.rate_hz, made.audio.channels) == (22050, 1)


def test_the_run_says_what_it_will_do(plain_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    shown = plain_run[1].stderr
    for words in (
        "model ",
        "device ",
        "effort  standard: 1 step, guidance 1.7",
        "portrait.mp4 (480x480, 25 fps, 4.00 s)",
        "(25 frames, 1.00 s)",
    ):
        assert words in shown
    assert "25 frames in " in shown.splitlines()[-1]
    assert "Warning" not in shown


def test_the_report_tells_how_to_repeat_it(plain_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    report: dict[str, Any] = json.loads((plain_run[0] / "report.json").read_text(encoding="utf-8"))
    assert report["latentsync"] == __version__
    assert (report["frames"], report["frames_with_face"], report["untouched_s"]) == (25, 25, [])
    assert report["duration_s"] == pytest.approx(SPEECH_S)
    assert report["recipe"]["seed"] == 1247
    dtype = "bfloat16" if has_fast_bfloat16() else "float32"
    assert (report["dtype"], report["untouched"]) == (dtype, [])
    assert set(report["stages"]) == {
        *("prepare", "first face", "load", "encode"),
        *("decode", "track", "cut", "generate", "paste"),
    }
    assert report["sync"]["judge"] in ("syncnet-compact", "syncnet-v2")
    assert abs(report["sync"]["offset_frames"]) <= 15 and report["sync"]["to_s"] == SPEECH_S


def test_only_the_mouth_changes(
    folder: Path, portrait: Path, run_cli: RunCli, cut_speech: Callable[..., Path]
) -> None:
    speech = cut_speech(folder / "speech.wav", 0.24)
    flags = ("--compare", "--codec", "lossless", "--quiet", "--start", "0.6", "--end", "1.2")
    ended = run_cli("sync", portrait, speech, "-o", "out.mkv", *flags)
    assert (ended.code, ended.out, ended.err) == (0, "out.mkv\n", "")
    sources, made = frames_of(portrait, start_s=0.6, end_s=0.84), frames_of(Path("out.mkv"))
    assert len(made) == len(sources) == 6
    for source, pair in ((sources[0], made[0]), (sources[-1], made[-1])):
        assert pair.shape == (480, 960, 3)
        beside, result = pair[:, :480], pair[:, 480:]
        assert np.array_equal(beside, source)
        points, change = face_points(source), change_of(result, source)
        assert change[inside(points[MOUTH], margin=0.0)].mean() > 2
        eyes = points[36:48]
        assert change[: int(eyes[:, 1].max())].max() == 0  # brows, eyes and everything above
        change[inside(points, margin=0.3)] = 0
        assert change.max() == 0


def test_a_picture_becomes_a_video(
    folder: Path, portrait_frames: list[FrameImage], run_cli: RunCli, cut_speech: Callable[..., Path]
) -> None:
    cv2.imwrite("face.png", cv2.cvtColor(portrait_frames[0], cv2.COLOR_RGB2BGR))
    ended = run_cli("sync", "face.png", cut_speech(folder / "speech.wav", 0.5), "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["output"], result["frames"]) == ("face_synced.mp4", 13)
    made = frames_of(Path("face_synced.mp4"))
    assert len(made) == 13
    mouth = inside(face_points(portrait_frames[0])[MOUTH], margin=0.1)
    moved = max(change_of(frame, made[0])[mouth].mean() for frame in made[1:])
    assert moved > 1  # the mouth does not stand still
    assert max(change_of(frame, made[0])[:100].mean() for frame in made[1:]) < 1


def test_frames_without_a_face_are_left_alone_and_listed(
    folder: Path,
    portrait_frames: list[FrameImage],
    black_frames: Callable[[int], list[FrameImage]],
    write_video: Callable[..., Path],
    run_cli: RunCli,
    cut_speech: Callable[..., Path],
) -> None:
    faces = portrait_frames[:14]
    video = write_video(folder / "gap.mp4", [*faces, *black_frames(20), *faces])
    speech = cut_speech(folder / "speech.wav", 48 / 25)
    ended = run_cli("sync", video, speech, "-o", "out.mp4", "--json", "--codec", "lossless")
    assert ended.code == 0, ended.err
    assert "warning: no face from 0.56 s to 1.36 s" in ended.err
    result = json.loads(ended.out)
    assert (result["frames"], result["frames_with_face"], result["bridged_frames"]) == (48, 28, 0)
    assert result["untouched_s"] == [[0.56, 1.36]]
    sources, made = frames_of(video), frames_of(Path("out.mp4"))
    changes = np.array([change_of(*pair).sum() for pair in zip(made, sources, strict=True)])
    assert (changes[14:34] == 0).all()
    assert (changes[:14] > 0).all() and (changes[34:] > 0).all()
    assert changes[13] < changes[5:9].min() / 1.5 > changes[34]  # the mouth fades out and in


def test_a_dry_run_makes_nothing(
    folder: Path,
    portrait: Path,
    run_cli: RunCli,
    cut_speech: Callable[..., Path],
    snapshot: Callable[[Path], dict[str, str]],
) -> None:
    speech = cut_speech(folder / "speech.wav", 0.5)
    before = snapshot(folder)
    for duration, frames in (("speech", 13), ("video", 50)):
        flags = ("--duration", duration, "--dry-run", "--json", "--report", "report.json")
        ended = run_cli("sync", portrait, speech, "--end", "2", *flags)
        assert ended.code == 0, ended.err
        result = json.loads(ended.out)
        assert (result["output"], result["frames"]) == (None, frames)
        assert f"({frames} frames" in ended.err
    assert snapshot(folder) == before


@pytest.mark.parametrize("stem", ["-o", "file:a %03d [x] *?", 'it\'s "my" $HOME grüße 口型 🙂'])
def test_odd_file_names(
    stem: str,
    folder: Path,
    portrait: Path,
    tiny_model: Path,
    run_cli: RunCli,
    cut_speech: Callable[..., Path],
) -> None:
    (folder / f"{stem}.mp4").write_bytes(portrait.read_bytes())
    cut_speech(folder / f"{stem}.wav", 0.08)
    inputs = f"{stem}.mp4", f"{stem}.wav"
    ended = run_cli("sync", "--model", tiny_model, "-o", f"{stem} out.mp4", "--", *inputs)
    assert (ended.code, ended.out) == (0, f"{stem} out.mp4\n"), ended.err
    assert {path.name for path in folder.iterdir()} == {f"{stem} out.mp4", *inputs}
    assert len(frames_of(folder / f"{stem} out.mp4")) == 2


def test_force_replaces_the_output(
    folder: Path, portrait: Path, tiny_model: Path, run_cli: RunCli, cut_speech: Callable[..., Path]
) -> None:
    Path("out.mp4").write_text("old")
    speech = cut_speech(folder / "speech.wav", 0.08)
    assert run_cli("sync", portrait, speech, "-o", "out.mp4", "--force", "--model", tiny_model).code == 0
    assert len(frames_of(Path("out.mp4"))) == 2


def test_uneven_frames_keep_their_times(
    folder: Path,
    portrait_frames: list[FrameImage],
    tiny_model: Path,
    run_cli: RunCli,
    cut_speech: Callable[..., Path],
) -> None:
    times_s = (0.0, 0.2, 0.4, 0.44, 0.48)
    writer = VideoWriter(
        folder / "uneven.mp4",
        width=480,
        height=480,
        fps=Fraction(25),
        encoding=Encoding(preset="ultrafast"),
    )
    with writer:
        for rgb_u8, time_s in zip(portrait_frames, times_s, strict=False):
            writer.write(rgb_u8, time_s)
    flags = ("-o", "out.mp4", "--duration", "hold", "--keep-fps", "--model", tiny_model)
    ended = run_cli("sync", "uneven.mp4", cut_speech(folder / "speech.wav", 0.75), *flags)
    assert ended.code == 0, ended.err
    made_s = [frame.time_s for frame in read_frames(Path("out.mp4"))]
    assert made_s[:5] == pytest.approx(times_s, abs=1e-3)
    assert 0.6 < made_s[-1] < 0.75
