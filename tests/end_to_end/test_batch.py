"""Many jobs in one run of the installed executable: killed, resumed, with a job that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentsync.types import FrameImage

EXECUTABLE = Path(sys.executable).parent / "latentsync"
SPEECH_S = 0.2


@pytest.fixture
def jobs(
    folder: Path,
    portrait: Path,
    cut_speech: Callable[..., Path],
    black_frames: Callable[[int], list[FrameImage]],
    write_video: Callable[..., Path],
) -> Path:
    cut_speech(folder / "speech.wav", SPEECH_S)
    write_video(folder / "black.mp4", black_frames(3))
    lines = [f"{portrait},a.mp4", "black.mp4,b.mp4", "nothing.mp4,c.mp4", f"{portrait},d.mp4"]
    text = "speech,video,output\n" + "".join(f"speech.wav,{line}\n" for line in lines)
    (folder / "jobs.csv").write_text(text, encoding="utf-8")
    return folder / "jobs.csv"


def test_a_killed_batch_resumes_and_a_failed_job_stops_no_other(
    jobs: Path, run_cli: Callable[..., Any]
) -> None:
    command = [EXECUTABLE, "sync", "--batch", jobs.name, "-o", "made", "--json", "--quiet"]
    with subprocess.Popen(command, cwd=jobs.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.kill()
    assert (first["row"], first["status"], first["is_earlier"]) == (2, "done", False)
    made = jobs.parent / "made"
    written = (made / "a.mp4").stat().st_mtime_ns

    ended = run_cli("sync", "--batch", jobs, "-o", "made", "--quiet")
    assert ended.code == 8
    table = [line.split()[:2] for line in ended.out.splitlines() if line[0].isdigit()]
    assert table == [["2", "done"], ["3", "failed"], ["4", "failed"], ["5", "done"]]
    assert ended.err.splitlines()[-1].startswith("2 of 4 jobs failed; --retry-failed")
    assert (made / "a.mp4").stat().st_mtime_ns == written
    assert sorted(path.name for path in made.iterdir()) == ["a.mp4", "batch", "d.mp4"]

    again = run_cli("sync", "--batch", jobs, "-o", "made", "--json", "--quiet")
    *outcomes, counts = map(json.loads, again.out.splitlines())
    assert [one["is_earlier"] for one in outcomes] == [True] * 4
    assert (counts["jobs"], counts["done"], counts["failed"], counts["earlier"]) == (4, 2, 2, 4)
    assert outcomes[0]["result"]["frames"] == 5


def test_a_dry_run_lists_what_is_to_do(jobs: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("sync", "--batch", jobs, "-o", "made", "--dry-run")
    assert ended.code == 0
    assert ended.out.count("to do") == 4 and "4: 4 to do" in ended.err
    assert not (jobs.parent / "made").exists()


def test_a_batch_takes_no_single_video(jobs: Path, portrait: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("sync", portrait, "speech.wav", "--batch", jobs)
    assert ended.code == 2 and "takes neither VIDEO" in ended.err
