"""What a run refuses before it starts, and how two runs with one output meet."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import LatentSyncError, UsageError
from latentsync.events import ignore
from latentsync.faces.choice import parse_face_choice
from latentsync.files import part_beside
from latentsync.media.write import VideoWriter
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.job import SyncJob
from latentsync.sync.plan import Setup, claimed, prepare, why_untouched

REPOSITORY = Path(__file__).parents[2]


def write(path: Path, *, replaces: bool = True) -> None:
    with VideoWriter(path, width=32, height=32, fps=Fraction(25), replaces=replaces) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))


def part_of(path: Path, pid: int) -> Path:
    """A part of `path` as another process would have made it."""
    return path.with_name(part_beside(path).name.replace(f"-{os.getpid()}-", f"-{pid}-"))


def prepared(video: Path, start_s: float, end_s: float) -> Setup:
    speech = REPOSITORY / "examples" / "speech.wav"
    job = SyncJob(
        video=video,
        speech=speech,
        output=None,
        start_s=start_s,
        end_s=end_s,
        duration="video",
        face=parse_face_choice("speaker"),
    )
    return prepare(job, load_recipe("sync", SyncRecipe), None, ignore)


def test_the_speaker_of_a_video_is_found(media: Path) -> None:
    setup = prepared(media / "test" / "two_people_interview.mp4", 11, 13)
    (turn,) = setup.job.face.turns  # the right one speaks, the left one's lips are shut
    assert (turn.start_s, round(turn.end_s, 2)) == (0, 1.96)
    points = [seen.points for seen in setup.job.face.seen.values()]
    assert all(found is not None and found[:, 0].mean() > 640 for found in points)
    assert why_untouched(setup) == "nobody in view speaks"


def test_a_video_without_sound_has_no_speaker() -> None:
    with pytest.raises(UsageError, match="has no sound that could tell who speaks"):
        prepared(REPOSITORY / "examples" / "portrait.mp4", 0, 1)


def test_a_second_run_says_who_writes_the_output(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        part_of(output, other.pid).touch()
        with pytest.raises(UsageError, match=rf"process {other.pid} is writing it"), claimed(output):
            pass
        with claimed(tmp_path / "another.mp4"):
            pass
        other.kill()


def test_parts_of_dead_runs_are_swept(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    part_of(output, dead.pid).touch()
    with claimed(output):
        assert len(list(tmp_path.iterdir())) == 1  # the mark of this run
    assert not list(tmp_path.iterdir())


def test_what_another_run_wrote_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"theirs")
    with pytest.raises(LatentSyncError, match="another run has written it"):
        write(output, replaces=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.mp4", b"theirs")]


def test_an_output_that_is_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.mp4", tmp_path / "elsewhere" / "real.mp4"
    link.symlink_to(target)
    write(link, replaces=False)
    assert link.is_symlink() and target.stat().st_size > 0
    assert [path.name for path in target.parent.iterdir()] == ["real.mp4"]
