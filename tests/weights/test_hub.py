"""The files of the catalogue: found, pulled from the hub, an address or a folder, checked and removed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from latentsync.errors import UsageError, WeightsError
from latentsync.events import Event, Note, Plan, Progress, ignore
from latentsync.weights.catalog import WeightsEntry
from latentsync.weights.hub import (
    cache_folder,
    is_present,
    need,
    path_of,
    pull,
    remove,
    survey,
    torch_hub_folder,
    verify,
)

BODY = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(BODY).hexdigest()
COMMIT, OTHER_COMMIT = "c0ffee" + 34 * "0", "decade" + 34 * "0"
FROM_HUB = {"hub": "a/b", "hub_file": "model.pt", "commit": COMMIT}
ADDRESS = "https://example.org/x"

Describe = Callable[..., WeightsEntry]


@pytest.fixture
def hub(site: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a file of the repository "a/b" on the local server, as the hub would serve it."""
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def put(body: bytes = BODY, *, sha256: str | None = None, **options: Any) -> None:
        tag = sha256 or hashlib.sha256(body).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "X-Linked-Size": str(len(body))}
        site.put(f"/a/b/resolve/{COMMIT}/model.pt", body, headers=headers, **options)

    return put


def put(path: Path, body: bytes = BODY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def put_in_hub_cache(tmp_path: Path, commit: str, body: bytes = BODY) -> Path:
    """A file as the hub's library leaves it: a link to its bytes, which its hash names."""
    repository = tmp_path / "hub" / "models--a--b"
    blob = put(repository / "blobs" / hashlib.sha256(body).hexdigest(), body)
    link = repository / "snapshots" / commit / "model.pt"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return link


def state() -> str:
    return survey()[0].state


def test_our_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LATENTSYNC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "latentsync"
    monkeypatch.setenv("LATENTSYNC_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.setenv("LATENTSYNC_CACHE", "~nobody-of-this-name/weights")
    with pytest.raises(WeightsError, match="LATENTSYNC_CACHE"):
        cache_folder()


@pytest.mark.parametrize("variables", [{}, {"TORCH_HOME": "~/t"}, {"XDG_CACHE_HOME": "~/x"}])
def test_the_torch_hub_folder_is_torchs_own(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(torch_hub_folder()) == torch.hub.get_dir()


def test_a_file_exists_or_the_error_names_the_command(describe: Describe, tmp_path: Path) -> None:
    entry = describe("one", url=ADDRESS, folder="torch-hub")
    assert not is_present(entry)
    with pytest.raises(WeightsError, match=r"'one' is missing: .*; it enables one!") as failure:
        need("one")
    assert failure.value.hint == "run 'latentsync models pull one'"
    path = put(tmp_path / "torch" / "hub" / "one" / "model.pt")
    assert need("one") == path_of(entry) == path
    assert is_present(entry)


@pytest.mark.parametrize(
    ("commit", "known", "is_found"),
    [(COMMIT, {}, True), (OTHER_COMMIT, {"sha256": DIGEST}, True), (OTHER_COMMIT, {}, False)],
)
def test_what_other_programs_fetched_is_found(
    commit: str, known: dict[str, str], is_found: bool, describe: Describe, tmp_path: Path
) -> None:
    entry = describe("one", **FROM_HUB, **known)
    path = put_in_hub_cache(tmp_path, commit)
    assert is_present(entry) == is_found
    if is_found:
        assert pull(["one"], ignore)[0].path == need("one") == path


def test_an_entry_and_what_it_needs(site: Any, describe: Describe, hub: Callable[..., None]) -> None:
    hub()
    describe("small", url=site.put("/small", b"small"))
    describe("big", needs=["small"], sha256=DIGEST, size_bytes=len(BODY), **FROM_HUB)
    events: list[Event] = []
    done = pull(["big"], events.append)
    assert [(file.entry, file.outcome) for file in done] == [("big", "fetched"), ("small", "fetched")]
    assert [file.path.read_bytes() for file in done] == [BODY, b"small"]
    assert events[0] == Plan(
        (
            "big: 2 MB; licence MIT; commercial use: yes",
            "small: size unknown; licence MIT; commercial use: yes",
        )
    )
    assert Progress("model.pt", 2, 2, "MB") in events
    asked = len(site.asked)
    assert [file.outcome for file in pull(["big"], ignore, is_offline=True)] == ["present", "present"]
    assert len(site.asked) == asked


def test_a_lost_connection_to_the_hub_is_continued(
    site: Any, describe: Describe, hub: Callable[..., None]
) -> None:
    hub(cuts=[1000])
    describe("one", sha256=DIGEST, **FROM_HUB)
    assert pull(["one"], ignore)[0].path.read_bytes() == BODY
    assert len(site.gets()) == 2


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {}], ids=["by the catalogue", "by the hub"])
def test_another_file_than_was_stated_is_not_kept(
    known: dict[str, str], describe: Describe, hub: Callable[..., None], tmp_path: Path
) -> None:
    hub(sha256=None if known else "0" * 64)
    entry = describe("one", **FROM_HUB, **known)
    with pytest.raises(WeightsError, match=f"has the SHA-256 {DIGEST}, expected {'0' * 64}"):
        pull(["one"], ignore)
    assert not is_present(entry)
    assert DIGEST not in {path.name for path in (tmp_path / "hub").rglob("*")}


def test_the_hub_fails_and_the_address_is_taken(
    site: Any, describe: Describe, hub: Callable[..., None], tmp_path: Path
) -> None:
    describe("one", url=site.put("/one", BODY), sha256=DIGEST, **FROM_HUB)
    events: list[Event] = []
    assert pull(["one"], events.append)[0].path == tmp_path / "cache" / "one" / "model.pt"
    notes = [event for event in events if isinstance(event, Note)]
    assert notes[0].level == "warning" and notes[0].message.endswith(f"trying {site.url}/one")


def test_a_hub_that_fails(describe: Describe, hub: Callable[..., None]) -> None:
    describe("one", **FROM_HUB)
    with pytest.raises(WeightsError, match=r"'a/b/model\.pt': .*404") as failure:
        pull(["one"], ignore)
    assert str(failure.value).isprintable()
    assert all(word in (failure.value.hint or "") for word in ("HTTPS_PROXY", "HF_ENDPOINT", "--from"))


def test_what_a_killed_download_left_is_swept(
    describe: Describe, hub: Callable[..., None], tmp_path: Path
) -> None:
    hub()
    describe("one", sha256=DIGEST, **FROM_HUB)
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    dead, alive = put(blobs / "x.1.incomplete"), put(blobs / "x.2.incomplete")
    os.utime(dead, (1, 1))
    pull(["one"], ignore)
    assert not dead.exists() and alive.exists()


def test_force_fetches_again(describe: Describe, hub: Callable[..., None], tmp_path: Path) -> None:
    hub()
    describe("one", sha256=DIGEST, **FROM_HUB)
    path = pull(["one"], ignore)[0].path
    path.resolve().write_bytes(b"damaged")
    assert verify(["one"], ignore)[0].fault
    assert pull(["one"], ignore, is_forced=True)[0].outcome == "fetched"
    assert path.read_bytes() == BODY


def test_two_pulls_at_once_fetch_one_file(site: Any, describe: Describe) -> None:
    hold, waits, started = threading.Event(), threading.Event(), threading.Event()
    describe("one", url=site.put("/one", BODY, hold=hold), sha256=DIGEST)
    outcomes: list[str] = []

    def run(report: Callable[[Event], None]) -> None:
        outcomes.append(pull(["one"], report)[0].outcome)

    def second_report(event: Event) -> None:
        if isinstance(event, Note) and "waiting" in event.message:
            waits.set()

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


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_offline_names_all_that_is_missing(
    by: str, site: Any, describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe("small", url=site.put("/small", b"small"))
    describe("big", url=site.put("/big", BODY), needs=["small"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by == "variable")
    with pytest.raises(WeightsError, match=r"big/model\.pt \(big: big!\); small/model\.pt") as failure:
        pull(["big"], ignore, is_offline=by == "flag")
    assert "--from DIR" in (failure.value.hint or "")
    assert site.asked == []


@pytest.mark.parametrize("where", ["one/model.pt", "model.pt", "deep/on/hub.pt"])
def test_from_a_folder(where: str, tmp_path: Path, describe: Describe) -> None:
    describe("one", hub="a/b", hub_file="deep/on/hub.pt", commit=COMMIT, sha256=DIGEST)
    copy = put(tmp_path / "stick" / where)
    pulled = pull(["one"], ignore, source=tmp_path / "stick")[0]
    assert (pulled.outcome, pulled.path) == ("copied", tmp_path / "cache" / "one" / "model.pt")
    assert pulled.path.read_bytes() == copy.read_bytes() == BODY
    assert list(pulled.path.parent.iterdir()) == [pulled.path]


@pytest.mark.parametrize(
    ("known", "message"),
    [({"sha256": DIGEST}, f"expected {DIGEST}"), ({"size_bytes": 7}, "has 4 bytes, expected 7")],
)
def test_a_folder_with_a_wrong_file(
    known: dict[str, Any], message: str, tmp_path: Path, describe: Describe
) -> None:
    entry = describe("one", url=ADDRESS, **known)
    put(tmp_path / "stick" / "model.pt", b"junk")
    with pytest.raises(WeightsError, match=message):
        pull(["one"], ignore, source=tmp_path / "stick")
    assert not is_present(entry)


def test_a_folder_that_lacks_files(tmp_path: Path, describe: Describe) -> None:
    describe("one", url=ADDRESS)
    with pytest.raises(WeightsError, match=r"does not contain one/model\.pt \(one: one!\)"):
        pull(["one"], ignore, source=tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        pull(["one"], ignore, source=tmp_path / "nowhere")
    describe("two", url=ADDRESS)
    put(tmp_path / "model.pt", b"which?")
    with pytest.raises(WeightsError, match=r"matches two files: two/model\.pt"):
        pull(["one", "two"], ignore, source=tmp_path)


def test_too_little_room_for_all_of_it(site: Any, describe: Describe) -> None:
    describe("one", url=site.put("/one", BODY), about_bytes=10**18)
    with pytest.raises(WeightsError, match="1000000000000 MB are needed"):
        pull(["one"], ignore)
    assert site.asked == []


def test_a_cache_that_cannot_be_written(site: Any, describe: Describe, tmp_path: Path) -> None:
    describe("one", url=site.put("/one", BODY))
    (tmp_path / "cache").touch()
    with pytest.raises(WeightsError, match="cannot write") as failure:
        pull(["one"], ignore)
    assert "LATENTSYNC_CACHE" in (failure.value.hint or "")
    assert state() == "missing"


def test_states_and_verdicts(describe: Describe, tmp_path: Path) -> None:
    entry = describe("one", url=ADDRESS, sha256=DIGEST, size_bytes=len(BODY))
    assert state() == "missing"
    assert verify([], ignore) == []
    assert [file.fault for file in verify(["one"], ignore)] == ["is missing"]
    put(path_of(entry).with_name("model.pt.part"))
    assert state() == "missing, its pull is unfinished"
    path = put(path_of(entry), b"junk")
    assert state() == f"damaged, 4 bytes instead of {len(BODY)}"
    with pytest.raises(WeightsError, match="has 4 bytes") as failure:
        pull(["one"], ignore)
    assert failure.value.hint == "run 'latentsync models pull --force one' to fetch it again"
    put(path)
    assert state() == "present"
    assert [file.fault for file in verify([], ignore)] == [None]
    put(path, BODY[::-1])
    assert f"expected {DIGEST}" in (verify([], ignore)[0].fault or "")


@pytest.mark.parametrize(
    ("facts", "size"), [({}, (None, False)), ({"about_bytes": 5}, (5, False)), ({"size_bytes": 4}, (4, True))]
)
def test_sizes_of_what_is_missing(
    facts: dict[str, int], size: tuple[int | None, bool], describe: Describe
) -> None:
    describe("one", url=ADDRESS, **facts)
    assert (survey()[0].size_bytes, survey()[0].is_exact) == size


def test_removal_takes_the_part_too(describe: Describe) -> None:
    entry = describe("one", url=ADDRESS)
    path = put(path_of(entry))
    part = put(path.with_name("model.pt.part"), b"half")
    assert remove(["one"], ignore) == {path: len(BODY), part: 4}
    assert not path.parent.exists()
    assert remove(["one"], ignore) == {}


def test_removal_from_the_hub_cache_keeps_the_bytes_of_other_commits(
    describe: Describe, tmp_path: Path
) -> None:
    entry = describe("one", sha256=DIGEST, **FROM_HUB)
    path, other = put_in_hub_cache(tmp_path, COMMIT), put_in_hub_cache(tmp_path, OTHER_COMMIT)
    assert remove(["one"], ignore) == {path: 0}
    assert other.read_bytes() == BODY
    assert remove(["one"], ignore) == {other: len(BODY)}
    assert not is_present(entry)
