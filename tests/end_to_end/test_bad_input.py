"""Every fault of a person ends in two lines and an exit code, and leaves all files as they were."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from latentsync.sync import run as core
from latentsync.weights.named import BUNDLED
from tests.conftest import RunCli

SPEECH_S = 0.4
# Exit code, what the error line names, arguments.
FAULTS = [
    (4, "'nosuch.mp4' does not exist", "nosuch.mp4 speech.wav"),
    (4, "'empty.mp4' is empty", "empty.mp4 speech.wav"),
    (4, "'cut.mp4' is cut off", "cut.mp4 speech.wav"),
    (4, "'text.mp4' is", "text.mp4 speech.wav"),
    (4, "'folder.mp4' is a folder", "folder.mp4 speech.wav"),
    (4, "'speech.wav' has no video stream", "speech.wav speech.wav"),
    (4, "'nosuch.wav' does not exist", "video.mp4 nosuch.wav"),
    (4, "'silent.wav'", "video.mp4 silent.wav"),
    (4, "'video.mp4' has no audio stream", "video.mp4 video.mp4"),
    (2, "'old.mp4'", "video.mp4 speech.wav -o old.mp4"),
    (2, "'folder.mp4'", "video.mp4 speech.wav -o folder.mp4 --force"),
    (2, "'video.mp4'", "video.mp4 speech.wav -o video.mp4 --force"),
    (2, "/speech.wav'", "video.mp4 speech.wav -o ../work/speech.wav --force"),
    (2, "'old.mp4'", "video.mp4 speech.wav --report old.mp4"),
    (2, "'out.mp4'", "video.mp4 speech.wav -o out.mp4 --report out.mp4"),
    (4, "'nosuch'", "video.mp4 speech.wav -o nosuch/out.mp4"),
    (4, "'out.txt'", "video.mp4 speech.wav -o out.txt"),
    (4, "xxx.mp4' cannot be written: File name too long", f"video.mp4 speech.wav -o {'x' * 300}.mp4"),
    (2, "--start 'nan'", "video.mp4 speech.wav --start nan"),
    (2, "--start 2.0 --end 1.0", "video.mp4 speech.wav --start 2 --end 1"),
    (2, "'video.mp4' ends at 4.00 s", "video.mp4 speech.wav --start 4"),
    (5, "'video.mp4'", "video.mp4 speech.wav --face 5"),
    (5, "'video.mp4'", "video.mp4 speech.wav --face 5,5"),
    (5, "'black.mp4'", "black.mp4 speech.wav"),
    (6, "'nosuch'", "video.mp4 speech.wav --model nosuch"),
    (6, "text.mp4", "video.mp4 speech.wav --model text.mp4"),
    (
        6,
        "vae.safetensors' holds autoencoder weights",
        f"video.mp4 speech.wav --model {BUNDLED / 'vae.safetensors'}",
    ),
    (4, "text.mp4", "video.mp4 speech.wav --mask text.mp4"),
]


@pytest.fixture
def inputs(
    folder: Path,
    portrait: Path,
    cut_speech: Callable[..., Path],
    write_video: Callable[..., Path],
    black_frames: Callable[[int], list[Any]],
) -> Path:
    """A folder with a good video and speech, and some files that are no good."""
    shutil.copy(portrait, "video.mp4")
    cut_speech(folder / "speech.wav", SPEECH_S)
    cut_speech(folder / "silent.wav", 0.0)
    Path("empty.mp4").touch()
    Path("cut.mp4").write_bytes(portrait.read_bytes()[: portrait.stat().st_size // 2])
    Path("text.mp4").write_text("this is no video\n" * 100)
    Path("old.mp4").write_text("keep me")
    Path("folder.mp4").mkdir()
    write_video(folder / "black.mp4", black_frames(12))
    return folder


@pytest.fixture
def expect_failure(
    inputs: Path, run_cli: RunCli, snapshot: Callable[[Path], dict[str, str]], tiny_model: Path
) -> Callable[..., None]:
    """Runs `sync` and checks how it ends: the code, what is named, and that no file is new or changed."""

    def expect(code: int, named: str, *arguments: str | Path) -> None:
        before = snapshot(inputs)
        ended = run_cli("sync", "--model", tiny_model, "--quiet", *arguments)
        assert ended.code == code, ended.err
        assert ended.out == ""
        error, hint = ended.err.splitlines()
        assert error.startswith("error: ") and named in error
        assert hint.startswith("hint:  ") and len(hint) > 12
        assert snapshot(inputs) == before

    return expect


@pytest.mark.parametrize(
    ("code", "named", "arguments"), FAULTS, ids=[case[2].split("/")[-1][-60:] for case in FAULTS]
)
def test_a_fault_in_files_or_flags(
    code: int, named: str, arguments: str, expect_failure: Callable[..., None]
) -> None:
    expect_failure(code, named, *arguments.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(expect_failure: Callable[..., None]) -> None:
    expect_failure(2, "--device cuda", "video.mp4", "speech.wav", "--device", "cuda")


def test_a_folder_that_cannot_be_written(
    expect_failure: Callable[..., None], inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inputs / "closed").mkdir(mode=0o555)
    if os.access(inputs / "closed", os.W_OK):  # root may write anywhere
        touch = Path.touch

        def refuse(path: Path) -> None:
            if path.parent.name == "closed":
                raise PermissionError(errno.EACCES, "Permission denied")
            touch(path)

        monkeypatch.setattr(Path, "touch", refuse)
    expect_failure(4, "'closed'", "video.mp4", "speech.wav", "-o", "closed/out.mp4")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has /proc")
def test_a_folder_that_takes_no_file_whoever_asks(expect_failure: Callable[..., None]) -> None:
    expect_failure(
        4, "'/proc': this folder cannot be written", "video.mp4", "speech.wav", "-o", "/proc/out.mp4"
    )


def test_a_full_disk(
    expect_failure: Callable[..., None], nearly_full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    flags = ("-o", "out.mp4", "--codec", "lossless")
    with nearly_full_disk():
        expect_failure(4, "'out.mp4' cannot be written", "video.mp4", "speech.wav", *flags)


def test_a_video_without_a_face_loads_no_model(
    media: Path,
    folder: Path,
    run_cli: RunCli,
    cut_speech: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(core, "load_model", refuse)
    speech = cut_speech(folder / "speech.wav", SPEECH_S)
    video = media / "test" / "background_no_face.mp4"
    ended = run_cli("sync", video, speech, "--model", tiny_model, "--end", "3")
    assert ended.code == 5
    assert f"error: '{video}': no face in any of" in ended.err
    assert sorted(path.name for path in folder.iterdir()) == ["speech.wav"]
