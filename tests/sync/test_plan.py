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
from latentsync.files import part_beside
from latentsync.media.write import VideoWriter
from latentsync.sync.plan import claimed


def write(path: Path, *, replaces: bool = True) -> None:
    with VideoWriter(path, width=32, height=32, fps=Fraction(25), replaces=replaces) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))


def part_of(path: Path, pid: int) -> Path:
    """A part of `path` as another process would have made it."""
    return path.with_name(part_beside(path).name.replace(f"-{os.getpid()}-", f"-{pid}-"))


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
