"""What is here and in what state; hashed again, and removed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from latentsync.errors import WeightsError
from latentsync.events import ignore
from latentsync.weights import catalog
from latentsync.weights.cache import path_of
from latentsync.weights.catalog import find_entry
from latentsync.weights.hub import Pull, pull
from latentsync.weights.inventory import remove, survey, verify
from latentsync.weights.records import Record, read_records, remember

BODY = b"weights"
DIGEST = hashlib.sha256(BODY).hexdigest()
TERMS = {"kind": "unet", "title": "A", "licence": "MIT", "commercial_use": "yes", "enables": "something"}


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds an entry with files at these paths, all with the same further facts."""
    tables: dict[str, Any] = {}
    path = tmp_path / "catalog.toml"

    def add(name: str, *paths: str, **facts: Any) -> None:
        files = [{"url": "https://example.org/x", **facts, "path": path} for path in paths]
        tables[name] = {**TERMS, "files": files}
        path.write_text(tomli_w.dumps(tables), encoding="utf-8")

    monkeypatch.setattr(catalog, "CATALOG", path)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    return add


def put(name: str, body: bytes = BODY, *, of: int = 0) -> Path:
    path = path_of(find_entry(name).files[of])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def bring(name: str, tmp_path: Path) -> Path:
    """The file of `name`, pulled from a folder."""
    folder = tmp_path / "stick"
    folder.mkdir(exist_ok=True)
    (folder / Path(find_entry(name).files[0].path).name).write_bytes(BODY)
    return pull([name], Pull(source=folder), ignore)[0].path


def state(name: str) -> str:
    return next(listed.state for listed in survey() if listed.entry.name == name)


def test_states_of_a_file_with_a_known_hash(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt", sha256=DIGEST, size_bytes=len(BODY))
    assert state("one") == "missing"
    put("one", b"junk")
    assert state("one") == "damaged, 4 bytes instead of 7"
    path = put("one")
    assert state("one") == "present, not verified"
    pull(["one"], Pull(), ignore)
    assert state("one") == "present"
    os.utime(path, ns=(1, 1))
    assert state("one") == "present, changed since it was verified"


def test_states_of_a_file_with_an_unknown_hash(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt")
    assert state("one") == "missing, hash recorded at the first pull"
    path = bring("one", tmp_path)
    assert state("one") == "present, hash first seen here"
    path.unlink()
    assert state("one") == "missing"


def test_states_of_a_file_of_the_hub(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt", hub="a/b", hub_file="a.pt", revision="main")
    assert state("one") == "missing, hash and commit recorded at the first pull"
    status = put("one").stat()
    seen = {"sha256": DIGEST, "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    remember(find_entry("one").files[0], Record(origin="hub", commit="abcdef" * 6 + "abcd", **seen))
    assert state("one") == "present, hash stated by the hub, commit abcdefab"


def test_states_of_several_files(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt", "one/b.pt", sha256=DIGEST, size_bytes=len(BODY))
    put("one")
    assert state("one") == "incomplete, 1 of 2 files"
    put("one", b"", of=1)
    assert state("one") == "damaged, 0 bytes instead of 7"
    listed = survey()[0]
    assert (listed.size_bytes, listed.is_exact) == (7, True)


@pytest.mark.parametrize(
    ("facts", "size"),
    [({}, (None, False)), ({"about_bytes": 5}, (10, False)), ({"size_bytes": 4}, (8, True))],
)
def test_sizes_of_what_is_missing(
    facts: dict[str, int], size: tuple[int | None, bool], describe: Callable[..., None]
) -> None:
    describe("one", "one/a.pt", "one/b.pt", **facts)
    assert (survey()[0].size_bytes, survey()[0].is_exact) == size


def test_a_damaged_file_is_found(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt", sha256=DIGEST)
    describe("two", "two/a.pt")
    assert verify([], ignore) == []
    paths = [bring("one", tmp_path), bring("two", tmp_path)]
    assert [file.fault for file in verify([], ignore)] == [None, None]
    for path in paths:
        path.write_bytes(b"weighty")
    checked = verify([], ignore)
    found = hashlib.sha256(b"weighty").hexdigest()
    assert [file.fault for file in checked] == 2 * [f"has the SHA-256 {found}, expected {DIGEST}"]
    assert checked[1].remedy == "run 'latentsync models pull --force two' to fetch it again"
    assert checked == verify(["one", "two"], ignore)


def test_a_file_of_another_size_is_never_recorded(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt", size_bytes=9)
    put("one")
    assert verify(["one"], ignore)[0].fault == "has 7 bytes, expected 9"
    assert not read_records()
    with pytest.raises(WeightsError, match="has 7 bytes, expected 9"):
        pull(["one"], Pull(), ignore)


def test_a_missing_file_is_not_good(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt")
    checked = verify(["one"], ignore)[0]
    assert checked.fault == "is missing"
    assert checked.remedy == "run 'latentsync models pull one'"


def test_what_verify_sees_first_is_recorded(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt")
    put("one")
    assert verify(["one"], ignore)[0].expected is None
    assert verify(["one"], ignore)[0].expected == DIGEST


def test_removal_keeps_what_others_use(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt", "shared.pt")
    describe("two", "two/a.pt", "shared.pt")
    paths = [put("one"), put("one", of=1), put("two")]
    done = remove(["one"], ignore)
    assert (done.removed, done.kept, done.freed_bytes) == ((paths[0],), (paths[1],), 7)
    assert not paths[0].parent.exists()
    done = remove(["two"], ignore)
    assert (set(done.removed), done.freed_bytes) == ({paths[1], paths[2]}, 14)
    assert remove(["two"], ignore).freed_bytes == 0


def test_removal_takes_an_unfinished_file_too(describe: Callable[..., None]) -> None:
    describe("one", "one/a.pt")
    part = put("one").rename(path_of(find_entry("one").files[0]).with_name("a.pt.part"))
    assert state("one").startswith("missing, a pull was begun")
    assert remove(["one"], ignore).freed_bytes == 7
    assert not part.exists()


def test_a_removed_file_is_still_known(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt")
    bring("one", tmp_path)
    remove(["one"], ignore)
    (tmp_path / "stick" / "a.pt").write_bytes(b"another")
    with pytest.raises(WeightsError, match=f"expected {DIGEST}"):
        pull(["one"], Pull(source=tmp_path / "stick"), ignore)


def test_damaged_records_are_named(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "known.json").write_text('{"one/a.pt": {"sha256": 3}}')
    with pytest.raises(WeightsError, match=r"known\.json' is damaged") as failure:
        survey()
    assert "delete it" in (failure.value.hint or "")


def test_records_that_may_not_be_read_are_not_called_damaged(
    describe: Callable[..., None], tmp_path: Path
) -> None:
    describe("one", "one/a.pt")
    (tmp_path / "cache" / "known.json").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"known\.json' cannot be read: Is a directory") as failure:
        survey()
    assert "LATENTSYNC_CACHE" in (failure.value.hint or "")


def test_a_file_for_a_cache_holds_nothing(describe: Callable[..., None], tmp_path: Path) -> None:
    describe("one", "one/a.pt")
    (tmp_path / "cache").touch()
    assert [listed.is_present for listed in survey()] == [False]
