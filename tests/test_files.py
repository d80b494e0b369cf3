"""Files appear whole or not at all, and only regular ones are read."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentsync.errors import MediaError
from latentsync.files import (
    free_bytes,
    json_lines,
    open_regular,
    part_beside,
    sha256_of,
    sweep_parts,
    whole_or_nothing,
)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    with whole_or_nothing(tmp_path / "a.txt") as part:
        part.write_text("all of it")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_what_was_there(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(failure), whole_or_nothing(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise failure
    assert (tmp_path / "a.txt").read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_threads_that_write_the_same_file_leave_one_whole(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with whole_or_nothing(tmp_path / "a.txt") as part:
            part.write_text(f"{number}" * 10_000)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(60)))
    assert len(set((tmp_path / "a.txt").read_text())) <= 2
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_long_name_has_room_for_a_part(tmp_path: Path) -> None:
    name = "ü" * 125 + ".mp4"
    part = part_beside(tmp_path / name, keep_suffix=True)
    part.touch()
    assert part.suffix == ".mp4"


def test_parts_of_dead_processes_are_swept(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from latentsync.files import part_beside;"
        "part_beside(Path(sys.argv[1])).touch()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "dead.mp4")], check=True)
    own, other = part_beside(tmp_path / "own.mp4"), tmp_path / "film.part"
    for path in (own, other):
        path.touch()
    assert [path.name.split(".")[0] for path in sweep_parts(tmp_path)] == ["dead"]
    assert sorted(tmp_path.iterdir()) == sorted([own, other])


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(MediaError, match=path.name):
            open_regular(path)
    (tmp_path / "list.txt").write_bytes(b"x" * 11)
    with pytest.raises(MediaError, match="11 bytes"):
        open_regular(tmp_path / "list.txt", most_bytes=10)
    with open_regular(tmp_path / "list.txt", most_bytes=11) as file:
        assert file.read() == b"x" * 11


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_room_is_looked_for_where_the_file_will_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there.mp4") == free_bytes(tmp_path) > 0


def test_lines_of_json_are_numbered_and_an_unfinished_one_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n{"b"')
    assert list(json_lines(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (2, [2])]


@pytest.mark.parametrize("line", ["{'a': 1}", "[" * 100_000, "9" * 5000, '"' + "a" * 1000 + '"', "\udcff"])
def test_a_line_that_is_no_json_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + os.fsencode(line) + b"\n")
    limit = 500 if len(line) == 1002 else 1 << 20
    with pytest.raises(MediaError, match=r"a\.jsonl', line 2: (not JSON|longer than 500 bytes)"):
        list(json_lines(tmp_path / "a.jsonl", most_line_bytes=limit))
