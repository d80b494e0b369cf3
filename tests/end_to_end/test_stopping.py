"""A run that is stopped in the middle leaves nothing behind, and no thread."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from latentsync.errors import MediaError
from latentsync.events import Event, Progress, ignore
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.run import SyncJob, run

EXECUTABLE = Path(sys.executable).parent / "latentsync"
WAIT_S = 120


def stop_at_third_frame(event: Event) -> None:
    if isinstance(event, Progress) and event.stage == "sync" and event.done == 3:
        raise KeyboardInterrupt


def test_stopped_between_two_frames(
    folder: Path, portrait: Path, tiny_model: Path, cut_speech: Callable[..., Path]
) -> None:
    speech = cut_speech(folder / "speech.wav", 2.0)
    job = SyncJob(video=portrait, speech=speech, output=folder / "out.mp4", model=str(tiny_model))
    threads = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(job, load_recipe("sync", SyncRecipe), stop_at_third_frame)
    assert stopped.traceback  # the frames of the run are still alive
    assert [path.name for path in folder.iterdir()] == ["speech.wav"]
    assert set(threading.enumerate()) <= threads  # those of other tests may end meanwhile


def test_threads_end_when_the_output_cannot_be_written(
    folder: Path,
    portrait: Path,
    tiny_model: Path,
    cut_speech: Callable[..., Path],
    nearly_full_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    speech = cut_speech(folder / "speech.wav", 4.0)
    job = SyncJob(video=portrait, speech=speech, output=folder / "out.mp4", model=str(tiny_model))
    recipe = load_recipe("sync", SyncRecipe, overrides=["encoding.codec=lossless"])
    threads = set(threading.enumerate())
    with nearly_full_disk(), pytest.raises(MediaError) as stopped:
        run(job, recipe, ignore)
    assert stopped.traceback  # the frames of the run are still alive
    assert set(threading.enumerate()) <= threads  # those of other tests may end meanwhile


def test_ctrl_c(folder: Path, portrait: Path, tiny_model: Path, cut_speech: Callable[..., Path]) -> None:
    cut_speech(folder / "speech.wav", 4.9)
    command = [EXECUTABLE, "sync", portrait, "speech.wav", "-o", "out.mp4", "--model", tiny_model, "--quiet"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + WAIT_S
    while not list(folder.glob("*.part.mp4")) and running.poll() is None and time.monotonic() < end_s:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    shown, complaints = running.communicate(timeout=WAIT_S)
    assert running.returncode == 130, complaints
    assert (shown, complaints) == ("", "interrupted: no unfinished file is left behind\n")
    assert [path.name for path in folder.iterdir()] == ["speech.wav"]
