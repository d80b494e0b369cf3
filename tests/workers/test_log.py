"""The log of a run: what a stopped run finds in it, and who may write."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from latentsync.errors import MediaError, UsageError
from latentsync.workers.log import Log, Shard, are_others_running, parse_shard, read_past


def test_entries_come_back_with_any_name(tmp_path: Path) -> None:
    names = ["a b.mp4", "quote'\".mp4", "line\nbreak.mp4", "ünï.mp4", "\udcff.mp4"]
    with closing(Log(tmp_path, Shard())) as log:
        for number, name in enumerate(names):
            log.append(name, {"number": number})
    past = read_past(tmp_path)
    assert {name: entry.values["number"] for name, entry in past.settled.items()} == dict(
        zip(names, range(5), strict=True)
    )


def test_a_torn_last_line_is_no_entry_and_spoils_no_other(tmp_path: Path) -> None:
    with closing(Log(tmp_path, Shard())) as log:
        log.append("a", {})
        with log.path.open("a") as file:
            file.write('{"key": "b", "at_')
        assert list(read_past(tmp_path).settled) == ["a"]
    with closing(Log(tmp_path, Shard())) as log:
        log.append("c", {})
        assert [json.loads(line)["key"] for line in log.path.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("line", ["[1]", "{}", '{"key": 1, "at_s": 1}', '{"key": "a", "at_s": NaN}', "what"])
def test_a_line_that_is_no_entry_is_named(line: str, tmp_path: Path) -> None:
    with closing(Log(tmp_path, Shard())) as log:
        log.append("a", {})
    log.path.write_text(f"{log.path.read_text()}{line}\n")
    with pytest.raises(MediaError, match=r"shard-1-of-1\.jsonl', line 2: ") as refused:
        read_past(tmp_path)
    assert "remove this line" in str(refused.value.hint)


def test_tries_count_from_the_last_time_it_was_settled(tmp_path: Path) -> None:
    with closing(Log(tmp_path, Shard())) as log:
        log.append("a", {"failure": "crashed"})
        log.append("a", {"failure": "crashed"})
        assert read_past(tmp_path).tries["a"] == 2
        log.append("a", {})
        log.append("a", {"failure": "error"})
    past = read_past(tmp_path)
    assert past.tries["a"] == 1 and list(past.settled) == ["a"]


def test_the_latest_entry_counts_whatever_shard_wrote_it(tmp_path: Path) -> None:
    with closing(Log(tmp_path, Shard(2, 2))) as first:
        first.append("a", {"turn": 1})
    with closing(Log(tmp_path, Shard())) as second:
        second.append("a", {"turn": 2})
    past = read_past(tmp_path, has=lambda key: key == "a")
    assert past.settled["a"].values["turn"] == 2
    assert not read_past(tmp_path, has=lambda key: False).settled


def test_one_run_at_a_time_writes_a_shard(tmp_path: Path) -> None:
    with closing(Log(tmp_path, Shard(1, 2))):
        with pytest.raises(UsageError, match=r"another run"):
            Log(tmp_path, Shard(1, 2))
        assert are_others_running(tmp_path) is True
        Log(tmp_path, Shard(2, 2)).close()
    assert are_others_running(tmp_path) is False


def test_an_entry_that_does_not_fit_on_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with closing(Log(tmp_path, Shard())) as log:
        log.append("a", {})
        before = log.path.read_bytes()
        with log.path.open("ab") as file:  # half an entry, as a full disk leaves it
            file.write(b'{"key"')
        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space"):
            log.append("b", {})
        assert log.path.read_bytes().startswith(before)


def test_shards_share_everything_out_once() -> None:
    keys = [f"{n}.mp4" for n in range(300)]
    for count in (1, 3, 7):
        parts = [[key for key in keys if Shard(index, count).has(key)] for index in range(1, count + 1)]
        assert sorted(chain.from_iterable(parts)) == sorted(keys)
        assert min(map(len, parts)) > 0


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match=r"not of the form i/n"):
        parse_shard(text)
