"""Downloads of plain addresses from a server that misbehaves: whole and checked, or refused in words."""

from __future__ import annotations

import hashlib
import re
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentsync.errors import WeightsError
from latentsync.events import Event, Note, Progress, ignore
from latentsync.weights import download as module
from latentsync.weights.catalog import WeightsEntry
from latentsync.weights.download import download, part_of, plain

BODY = bytes(range(256)) * 20_000  # 5 MB
DIGEST = hashlib.sha256(BODY).hexdigest()
KNOWN = {"sha256": DIGEST, "size_bytes": len(BODY)}

Describe = Callable[..., WeightsEntry]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "model.pt"


@pytest.fixture
def entry(site: Any, describe: Describe) -> Describe:
    """An entry for a page of the server, with what the catalogue knows of it."""

    def make(known: dict[str, Any] = KNOWN, body: bytes = BODY, **options: Any) -> WeightsEntry:
        return describe("one", url=site.put("/model.pt", body, **options), **known)

    return make


def refused(entry: WeightsEntry, path: Path) -> str:
    with pytest.raises(WeightsError) as failure:
        download(entry, path, ignore)
    assert failure.value.hint
    assert not path.exists()
    return str(failure.value)


def test_a_whole_file(entry: Describe, path: Path) -> None:
    events: list[Event] = []
    assert download(entry(), path, events.append) == DIGEST
    assert path.read_bytes() == BODY
    assert events[-1] == Progress("model.pt", 6, 6, "MB")
    assert list(path.parent.iterdir()) == [path]


def test_a_lost_connection_is_continued(entry: Describe, site: Any, path: Path) -> None:
    notes: list[Event] = []
    assert download(entry(cuts=[1000, 1_000_000]), path, notes.append) == DIGEST
    assert site.gets() == [None, "bytes=1000-", "bytes=1001000-"]
    messages = [event.message for event in notes if isinstance(event, Note)]
    assert messages[0].startswith("model.pt: the connection ended after 1000 of 5120000 bytes; trying again")


@pytest.mark.parametrize("stop", ["by the server", "by the person"])
def test_a_later_call_continues(stop: str, entry: Describe, site: Any, path: Path) -> None:
    wanted = entry(cuts=[700] + 3 * [0] if stop == "by the server" else [])

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(WeightsError if stop == "by the server" else KeyboardInterrupt):
        download(wanted, path, ignore if stop == "by the server" else interrupt)
    begun_bytes = part_of(path).stat().st_size
    assert begun_bytes and not path.exists()
    assert download(wanted, path, ignore) == DIGEST
    assert site.gets()[-1] == f"bytes={begun_bytes}-"


@pytest.mark.parametrize("part", [b"!" * 500, BODY, BODY + b"more"], ids=["junk", "whole", "too long"])
@pytest.mark.parametrize("known", [KNOWN, {"sha256": DIGEST}], ids=["size known", "size unknown"])
def test_whatever_the_part_holds_the_file_is_whole(
    part: bytes, known: dict[str, Any], entry: Describe, path: Path
) -> None:
    part_of(path).write_bytes(part)
    assert download(entry(known), path, ignore) == DIGEST
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("options", [{"takes_ranges": False}, {"shift": 1}])
def test_a_server_that_cannot_continue(
    options: dict[str, Any], entry: Describe, site: Any, path: Path
) -> None:
    assert download(entry(cuts=[500], **options), path, ignore) == DIGEST
    assert path.read_bytes() == BODY


def test_without_a_hash_nothing_is_pieced_together(entry: Describe, site: Any, path: Path) -> None:
    assert download(entry({}, cuts=[500]), path, ignore) == DIGEST
    assert site.gets() == [None, None]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"status": 404}, "answered 404"),
        ({"status": 403, "reason": "no\x1b[2J\x07 entry"}, r"answered 403 no\[2J entry$"),
        ({"status": 503}, "answered 503"),
        ({"body": b"<html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page"),
        ({"body": BODY + b"more"}, "offers 5120004 bytes, expected 5120000"),
        ({"body": BODY[:-1]}, "offers 5119999 bytes, expected 5120000"),
        ({"body": BODY[::-1]}, f"has the SHA-256 [0-9a-f]*, expected {DIGEST}"),
        ({"is_endless": True}, "sent more than 5120000 bytes"),
        ({"status": 302, "headers": {"Location": "/model.pt"}}, "answered 302"),
        ({"status": 302, "headers": {"Location": "ftp://127.0.0.1/x"}}, "redirects to 'ftp://127.0.0.1/x'"),
    ],
)
def test_a_refusal_leaves_nothing(page: dict[str, Any], message: str, entry: Describe, path: Path) -> None:
    wanted = entry(**page)
    text = refused(wanted, path)
    assert re.search(message, text)
    assert str(wanted.url) in text
    assert text.isprintable()
    assert not list(path.parent.iterdir())


def test_a_server_that_never_ends_stops_at_twice_the_rough_size(entry: Describe, path: Path) -> None:
    wanted = entry({"about_bytes": len(BODY)}, is_endless=True)
    assert f"sent more than {2 * len(BODY)} bytes" in refused(wanted, path)
    assert not list(path.parent.iterdir())


def test_a_silent_server(entry: Describe, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "TRIES", 2)
    assert "no answer for 0.2 s" in refused(entry(hold=threading.Event()), path)


def test_no_server(describe: Describe, path: Path) -> None:
    assert "the connection failed" in refused(describe("one", url="http://127.0.0.1:9/model.pt"), path)


@pytest.mark.parametrize("target", ["http://b.example/x", "ftp://b.example/x", "file:///etc/passwd"])
def test_no_redirect_to_an_unencrypted_address(target: str) -> None:
    request = urllib.request.Request("https://a.example/x")
    with pytest.raises(WeightsError, match="which is not followed"):
        module._SafeRedirects().redirect_request(request, None, 302, "", {}, target)  # type: ignore[arg-type]


def test_a_proxy_is_used(site: Any, describe: Describe, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("http://far.example/model.pt", BODY)  # what a proxy is asked for
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download(describe("one", url="http://far.example/model.pt"), path, ignore) == DIGEST


def test_a_part_that_is_a_link_is_not_followed(entry: Describe, path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part_of(path).symlink_to(victim)
    download(entry(), path, ignore)
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == BODY and not path.is_symlink()


def test_words_of_a_server_are_short_and_plain() -> None:
    assert plain("\x1b]0;title\x07" + 300 * "a") == ("]0;title" + 300 * "a")[:200]
