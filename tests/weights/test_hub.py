"""Pulling entries: from the hub, an address or a folder; checked, recorded, once, and never half."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from latentsync.errors import UsageError, WeightsError
from latentsync.events import Event, Note, Plan, ignore
from latentsync.weights import catalog
from latentsync.weights import hub as fetch
from latentsync.weights.cache import path_of
from latentsync.weights.catalog import find_entry
from latentsync.weights.downloads import Patience
from latentsync.weights.hub import Pull, pull
from latentsync.weights.records import read_records

BODY = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(BODY).hexdigest()
COMMIT = "c0ffee" + 34 * "0"
HASTY = Patience(timeout_s=10, retries=1, backoff_s=0)
HOW = Pull(patience=HASTY)

Describe = Callable[..., None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield tmp_path / "cache"
    assert not [*tmp_path.rglob("*.part"), *tmp_path.rglob("*.part.json")]


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Describe:
    """Adds an entry of one file to the catalogue of this test."""
    tables: dict[str, Any] = {}

    def add(name: str, *, needs: tuple[str, ...] = (), **file: Any) -> None:
        terms = {"kind": "unet", "title": "A", "licence": "MIT", "commercial_use": "yes"}
        files = [{"path": f"{name}/model.pt", **file}]
        tables[name] = {**terms, "enables": f"{name}!", "needs": list(needs), "files": files}
        (tmp_path / "catalog.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")

    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "catalog.toml")
    return add


@pytest.fixture
def hub(site: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a file of the repository "a/b" on the local server, as the hub would serve it."""
    monkeypatch.setenv("HF_ENDPOINT", site.url + "/")

    def put(body: bytes = BODY, *, commit: str = COMMIT, sha256: str | None = None, **how: Any) -> None:
        tag = sha256 or hashlib.sha256(body).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "X-Linked-Size": str(len(body))}
        for revision in ("main", commit):
            site.put(f"/a/b/resolve/{revision}/model.pt", body, headers=headers, **how)

    return put


FROM_HUB = {"hub": "a/b", "hub_file": "model.pt", "revision": "main"}


def model(name: str = "one") -> Path:
    return path_of(find_entry(name).files[0])


def test_an_entry_and_what_it_needs(cache: Path, site: Any, describe: Describe) -> None:
    describe("small", url=site.put("/small", b"small"))
    describe("big", url=site.put("/big", BODY), needs=("small",), sha256=DIGEST, size_bytes=len(BODY))
    events: list[Event] = []
    done = pull(["big"], HOW, events.append)
    assert [(file.entry, file.outcome) for file in done] == [("big", "fetched"), ("small", "fetched")]
    assert (cache / "big" / "model.pt").read_bytes() == BODY
    assert (cache / "small" / "model.pt").read_bytes() == b"small"
    assert set(read_records()) == {"big/model.pt", "small/model.pt"}
    assert events[0] == Plan(
        (
            "big: 2 MB; licence MIT; commercial use: yes",
            "small: size unknown; licence MIT; commercial use: yes",
        )
    )


def test_what_is_here_and_checked_is_left_alone(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY), sha256=DIGEST)
    pull(["one"], HOW, ignore)
    asked = len(site.asked)
    assert pull(["one"], HOW, ignore)[0].outcome == "present"
    assert len(site.asked) == asked


def test_a_file_put_there_by_hand_is_checked(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.url + "/nowhere", sha256=DIGEST)
    model().parent.mkdir(parents=True)
    model().write_bytes(BODY)
    assert pull(["one"], HOW, ignore)[0].outcome == "present"
    model().write_bytes(b"junk")
    with pytest.raises(WeightsError, match=f"expected {DIGEST}") as failure:
        pull(["one"], HOW, ignore)
    assert failure.value.hint == "run 'latentsync models pull --force one' to fetch it again"
    assert model().read_bytes() == b"junk"


def test_a_corrected_catalogue_wins(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY))
    pull(["one"], HOW, ignore)
    describe("one", url=site.url + "/one", sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"{DIGEST}, expected {'0' * 64}"):
        pull(["one"], HOW, ignore)


def test_the_hub_is_asked_about_a_file_put_there_by_hand(
    cache: Path, site: Any, describe: Describe, hub: Callable[..., None]
) -> None:
    describe("one", **FROM_HUB)
    hub()
    model().parent.mkdir(parents=True)
    model().write_bytes(BODY[:-1])
    with pytest.raises(WeightsError, match=f"expected {DIGEST}"):
        pull(["one"], HOW, ignore)
    model().write_bytes(BODY)
    assert pull(["one"], HOW, ignore)[0].outcome == "present"
    assert read_records()["one/model.pt"].commit == COMMIT


def test_a_file_that_nothing_is_known_of_is_taken_as_it_is(
    cache: Path, describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe("one", **FROM_HUB)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model().parent.mkdir(parents=True)
    model().write_bytes(BODY)
    events: list[Event] = []
    pull(["one"], HOW, events.append)
    assert read_records()["one/model.pt"].origin == "first seen"
    assert any(isinstance(event, Note) and "nothing to check it against" in event.message for event in events)


def test_force_fetches_again_and_forgets(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", b"old"))
    pull(["one"], HOW, ignore)
    site.put("/one", b"new")
    assert pull(["one"], Pull(is_forced=True, patience=HASTY), ignore)[0].outcome == "fetched"
    assert model().read_bytes() == b"new"


@pytest.mark.parametrize("digits", [64, 8])
def test_another_hash_than_the_catalogues(digits: int, cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", b"not the one"), sha256=DIGEST[:digits])
    with pytest.raises(WeightsError, match=f"has the SHA-256 {hashlib.sha256(b'not the one').hexdigest()}, "):
        pull(["one"], HOW, ignore)
    assert not model().exists()
    assert not read_records()


def test_an_unknown_hash_is_recorded_and_checked_from_then_on(
    cache: Path, site: Any, describe: Describe
) -> None:
    describe("one", url=site.put("/one", BODY))
    pull(["one"], HOW, ignore)
    assert json.loads((cache / "known.json").read_text())["one/model.pt"]["sha256"] == DIGEST
    assert read_records()["one/model.pt"].origin == "first seen"
    model().unlink()
    site.put("/one", b"another")
    with pytest.raises(WeightsError, match=f"expected {DIGEST}") as failure:
        pull(["one"], HOW, ignore)
    assert "--force" in (failure.value.hint or "")


def test_the_hub_pins_the_commit(
    cache: Path, site: Any, describe: Describe, hub: Callable[..., None]
) -> None:
    describe("one", **FROM_HUB)
    hub()
    pull(["one"], HOW, ignore)
    assert model().read_bytes() == BODY
    record = read_records()["one/model.pt"]
    assert (record.commit, record.origin) == (COMMIT, "hub")
    gets = [path for method, path, _ in site.asked if method == "GET" and "/resolve/" in path]
    assert gets == [f"/a/b/resolve/{COMMIT}/model.pt"]
    model().unlink()
    site.asked.clear()
    pull(["one"], HOW, ignore)
    assert not [path for _, path, _ in site.asked if "main" in path]


def test_the_hubs_own_hash_is_checked(cache: Path, describe: Describe, hub: Callable[..., None]) -> None:
    describe("one", **FROM_HUB)
    hub(sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"has the SHA-256 {DIGEST}, expected {'0' * 64}"):
        pull(["one"], HOW, ignore)
    assert not model().exists()


def test_a_hub_that_has_another_file_is_not_asked_for_it(
    cache: Path, site: Any, describe: Describe, hub: Callable[..., None]
) -> None:
    describe("one", sha256="0" * 64, **FROM_HUB)
    hub()
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}"):
        pull(["one"], HOW, ignore)
        assert "GET" not in {method for method, path, _ in site.asked if "/resolve/" in path}


def test_the_hub_fails_and_the_address_is_taken(
    cache: Path, site: Any, describe: Describe, hub: Callable[..., None]
) -> None:
    describe("one", url=site.put("/one", BODY), sha256=DIGEST, **FROM_HUB)
    events: list[Event] = []
    pull(["one"], HOW, events.append)
    assert model().read_bytes() == BODY
    notes = [event for event in events if isinstance(event, Note)]
    assert notes[0].level == "warning" and notes[0].message.endswith(f"trying {site.url}/one")


def test_a_hub_that_cannot_be_reached(
    cache: Path, describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe("one", **FROM_HUB)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r":9/a/b/resolve/main/model\.pt': ") as failure:
        pull(["one"], HOW, ignore)
    assert all(word in (failure.value.hint or "") for word in ("HTTPS_PROXY", "HF_ENDPOINT", "--from"))


def test_a_damaged_part_is_fetched_afresh(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY, cuts=[1000, 0]), sha256=DIGEST)
    with pytest.raises(WeightsError, match="the connection ended"):
        pull(["one"], HOW, ignore)
    part = fetch.part_of(model())
    part.write_bytes(b"!" + part.read_bytes()[1:])
    pull(["one"], HOW, ignore)
    assert model().read_bytes() == BODY
    assert site.gets()[-2:] == ["bytes=1000-", None]


def test_two_pulls_at_once_fetch_one_file(cache: Path, site: Any, describe: Describe) -> None:
    hold, waits = threading.Event(), threading.Event()
    describe("one", url=site.put("/one", BODY, hold=hold))
    outcomes: list[str] = []

    def run(report: Callable[[Event], None]) -> None:
        outcomes.append(pull(["one"], HOW, report)[0].outcome)

    def second_report(event: Event) -> None:
        if isinstance(event, Note) and "waiting" in event.message:
            waits.set()

    started = threading.Event()
    first = threading.Thread(target=run, args=(lambda event: started.set() if site.asked else None,))
    first.start()
    assert started.wait(20)
    second = threading.Thread(target=run, args=(second_report,))
    second.start()
    assert waits.wait(20)
    hold.set()
    first.join(20)
    second.join(20)
    assert sorted(outcomes) == ["fetched", "present"]
    assert site.gets() == [None]
    assert model().read_bytes() == BODY


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_offline_says_all_that_is_missing(
    by: str, cache: Path, site: Any, describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe("small", url=site.put("/small", b"small"))
    describe("big", url=site.put("/big", BODY), needs=("small",))
    if by == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    how = Pull(is_offline=by == "flag")
    with pytest.raises(WeightsError, match=r"big/model\.pt \(big: big!\); small/model\.pt") as failure:
        pull(["big"], how, ignore)
    assert "--from DIR" in (failure.value.hint or "")
    assert site.asked == []


def test_offline_with_everything_here(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY))
    pull(["one"], HOW, ignore)
    assert pull(["one"], Pull(is_offline=True), ignore)[0].outcome == "present"


@pytest.mark.parametrize("where", ["one/model.pt", "model.pt", "deep/on/hub.pt"])
def test_from_a_folder(where: str, cache: Path, tmp_path: Path, describe: Describe) -> None:
    describe("one", hub="a/b", hub_file="deep/on/hub.pt", revision="main", sha256=DIGEST)
    copy = tmp_path / "stick" / where
    copy.parent.mkdir(parents=True)
    copy.write_bytes(BODY)
    assert pull(["one"], Pull(source=tmp_path / "stick"), ignore)[0].outcome == "copied"
    assert model().read_bytes() == copy.read_bytes() == BODY
    assert read_records()["one/model.pt"].origin == "catalogue"


def test_a_folder_with_a_wrong_file(cache: Path, tmp_path: Path, describe: Describe) -> None:
    describe("one", url="https://example.org/x", sha256=DIGEST)
    describe("two", url="https://example.org/x", size_bytes=7)
    (tmp_path / "model.pt").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=f"expected {DIGEST}"):
        pull(["one"], Pull(source=tmp_path), ignore)
    with pytest.raises(WeightsError, match="has 4 bytes, expected 7"):
        pull(["two"], Pull(source=tmp_path), ignore)
    assert not model().exists()


def test_a_folder_that_lacks_files(cache: Path, tmp_path: Path, describe: Describe) -> None:
    describe("one", url="https://example.org/x")
    with pytest.raises(WeightsError, match=r"lacks one/model\.pt \(one: one!\)"):
        pull(["one"], Pull(source=tmp_path), ignore)
    with pytest.raises(UsageError, match="no such folder"):
        pull(["one"], Pull(source=tmp_path / "nowhere"), ignore)


def test_one_bare_name_for_two_files(cache: Path, tmp_path: Path, describe: Describe) -> None:
    describe("one", url="https://example.org/x")
    describe("two", url="https://example.org/y")
    (tmp_path / "model.pt").write_bytes(b"which?")
    with pytest.raises(WeightsError, match=r"could be two files: two/model\.pt"):
        pull(["one", "two"], Pull(source=tmp_path), ignore)


def test_files_of_other_packages_go_where_these_look(
    cache: Path, site: Any, tmp_path: Path, describe: Describe
) -> None:
    describe("one", url=site.put("/one", BODY), place="torch-hub")
    assert pull(["one"], HOW, ignore)[0].path == tmp_path / "torch" / "hub" / "one" / "model.pt"


def test_too_little_room_for_all_of_it(cache: Path, site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY), about_bytes=10**18)
    with pytest.raises(WeightsError, match="1000000000000 MB are needed"):
        pull(["one"], HOW, ignore)
    assert site.asked == []
