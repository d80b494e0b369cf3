"""Downloads from a server that misbehaves: continued, bounded, and refused in words."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from latentsync.errors import WeightsError
from latentsync.events import Event, Note, Progress, ignore
from latentsync.weights import downloads
from latentsync.weights.downloads import Order, Patience, download

BODY = bytes(range(256)) * 20_000  # 5 MB
DIGEST = hashlib.sha256(BODY).hexdigest()
ETAG = {"ETag": '"one"'}
HASTY = Patience(timeout_s=5, retries=3, backoff_s=0)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "model.pt.part"


def order(url: str, part: Path, **how: Any) -> Order:
    facts = {"size_bytes": None, "ceiling_bytes": 10 * len(BODY), "is_fixed": False}
    return Order(url=url, part=part, label="model.pt", **{**facts, **how})


def test_a_whole_file(site: Any, part: Path) -> None:
    events: list[Event] = []
    wanted = order(site.put("/model.pt", BODY), part)
    assert download(wanted, events.append, HASTY) == DIGEST
    assert part.read_bytes() == BODY
    assert events[-1] == Progress("model.pt", 6, 6, "MB")


def test_an_interruption_is_continued_where_it_was(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG, cuts=[1000, 1_000_000]), part)
    notes: list[Event] = []
    assert download(wanted, notes.append, HASTY) == DIGEST
    assert site.gets() == [None, "bytes=1000-", "bytes=1001000-"]
    said = [event.message for event in notes if isinstance(event, Note)]
    assert said[0].startswith("model.pt: the connection ended after 1000 of 5120000 bytes; trying again")


def test_a_later_run_continues(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG, cuts=[700]), part)
    with pytest.raises(WeightsError, match="ended after 700 of 5120000") as failure:
        download(wanted, ignore, Patience(retries=0))
    assert "goes on where it stopped" in (failure.value.hint or "")
    assert part.stat().st_size == 700
    assert download(wanted, ignore, HASTY) == DIGEST
    assert site.gets() == [None, "bytes=700-"]


def test_an_interrupt_by_the_person_keeps_the_part(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG), part)

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(wanted, stop, HASTY)
    assert part.stat().st_size > 0
    assert download(wanted, ignore, HASTY) == DIGEST


@pytest.mark.parametrize("change", ["another version", "no version", "no ranges", "another address"])
def test_a_part_of_something_else_starts_afresh(change: str, site: Any, part: Path) -> None:
    old = BODY[::-1]
    headers = {} if change == "no version" else ETAG
    wanted = order(site.put("/model.pt", old, headers=headers, cuts=[500]), part)
    with pytest.raises(WeightsError):
        download(wanted, ignore, Patience(retries=0))
    new = {"headers": {"ETag": '"two"'}} if change == "another version" else {"headers": headers}
    path = "/other.pt" if change == "another address" else "/model.pt"
    url = site.put(path, BODY, takes_ranges=change != "no ranges", **new)
    assert download(order(url, part), ignore, HASTY) == DIGEST
    assert part.read_bytes() == BODY


def test_a_fixed_address_needs_no_version(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, cuts=[500]), part, is_fixed=True)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert site.gets() == [None, "bytes=500-"]


def test_a_weak_version_is_no_version(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers={"ETag": 'W/"one"'}, cuts=[500]), part)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert site.gets() == [None, None]


def test_a_date_is_a_version(site: Any, part: Path) -> None:
    date = {"Last-Modified": "Mon, 23 Nov 2026 12:00:00 GMT"}
    wanted = order(site.put("/model.pt", BODY, headers=date, cuts=[500]), part)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert site.gets() == [None, "bytes=500-"]


def test_a_server_that_continues_at_another_place(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG, cuts=[500], shift=1), part)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert site.gets() == [None, "bytes=500-", None]


@pytest.mark.parametrize("size_bytes", [len(BODY), None])
def test_a_part_that_is_whole(size_bytes: int | None, site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG), part, size_bytes=size_bytes)
    assert download(wanted, ignore, HASTY) == download(wanted, ignore, HASTY) == DIGEST
    assert part.read_bytes() == BODY


def test_a_redirect_is_followed_with_its_range(site: Any, part: Path) -> None:
    site.put("/far.pt", BODY, headers=ETAG, cuts=[900])
    wanted = order(site.put("/near.pt", status=302, headers={"Location": "/far.pt"}), part)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert [wish for _, path, wish in site.asked if path == "/far.pt"] == [None, "bytes=900-"]


def test_no_redirect_to_a_plain_address() -> None:
    request = downloads.urllib.request.Request("https://a.example/x")
    with pytest.raises(WeightsError, match=r"unencrypted address 'http://b.example/x'"):
        downloads._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://b.example/x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"status": 404}, "answered 404"),
        ({"status": 403}, "answered 403"),
        ({"status": 503}, "answered 503"),
        ({"body": b"<html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page"),
        ({"body": BODY + b"more"}, "offers 5120004 bytes, expected 5120000"),
        ({"body": BODY[:-1]}, "offers 5119999 bytes, expected 5120000"),
        ({"body": BODY, "is_endless": True}, "sent more than 5120000 bytes"),
        ({"status": 302, "headers": {"Location": "/model.pt"}}, "answered 302"),
    ],
)
def test_a_refusal_leaves_nothing(page: dict[str, Any], message: str, site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", **page), part, size_bytes=len(BODY))
    with pytest.raises(WeightsError, match=message) as failure:
        download(wanted, ignore, HASTY)
    assert wanted.url in str(failure.value)
    assert failure.value.hint
    assert not list(part.parent.iterdir())


def test_a_server_that_never_ends_stops_at_the_ceiling(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, is_endless=True), part, ceiling_bytes=2 * len(BODY))
    with pytest.raises(WeightsError, match=f"sent more than {2 * len(BODY)} bytes"):
        download(wanted, ignore, HASTY)
    assert not list(part.parent.iterdir())


def test_a_length_above_the_ceiling(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY), part, ceiling_bytes=1000)
    with pytest.raises(WeightsError, match="offers 5120000 bytes, expected at most 1000"):
        download(wanted, ignore, HASTY)


def test_a_silent_server(site: Any, part: Path) -> None:
    wanted = order(site.put("/model.pt", BODY, headers=ETAG, hold=threading.Event()), part)
    with pytest.raises(WeightsError, match=r"no answer for 0\.2 s"):
        download(wanted, ignore, Patience(timeout_s=0.2, retries=1, backoff_s=0))
    assert site.gets() == [None, "bytes=1-"]


def test_a_slow_server(site: Any, part: Path) -> None:
    hold = threading.Event()
    wanted = order(site.put("/model.pt", BODY, hold=hold), part)

    def go_on(event: Event) -> None:
        hold.set()

    assert download(wanted, go_on, HASTY) == DIGEST
    assert len(site.gets()) == 1


def test_no_server(part: Path) -> None:
    with pytest.raises(WeightsError, match="the connection failed") as failure:
        download(order("http://127.0.0.1:9/model.pt", part), ignore, Patience(retries=1, backoff_s=0))
    assert all(word in (failure.value.hint or "") for word in ("HTTPS_PROXY", "HF_ENDPOINT", "--from"))


def test_a_proxy_is_used(site: Any, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("http://far.example/model.pt", BODY)  # what a proxy is asked for
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download(order("http://far.example/model.pt", part), ignore, HASTY) == DIGEST


def test_too_little_room_is_seen_before_the_first_byte(
    site: Any, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 60_000_000))
    with pytest.raises(WeightsError, match="6 MB are needed, 60 MB are free") as failure:
        download(order(site.put("/model.pt", BODY), part), ignore, HASTY)
    assert "LATENTSYNC_CACHE" in (failure.value.hint or "")
    assert not part.exists()


def full(number: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def unwritable(folder: Path) -> None:
    folder.parent.write_bytes(b"a file where a folder should be")


@pytest.mark.parametrize("trouble", ["full", "unwritable"])
def test_a_disk_that_takes_no_more(
    trouble: str, site: Any, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "full":
        monkeypatch.setattr(downloads, "fsync", full)
    else:
        unwritable(part)
    with pytest.raises(WeightsError, match=r"cannot write .*model\.pt\.part': ") as failure:
        download(order(site.put("/model.pt", BODY), part), ignore, HASTY)
    assert "free some space" in (failure.value.hint or "")


def test_retries_start_afresh_after_real_progress(
    site: Any, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "WORTH_BYTES", 1000)
    wanted = order(site.put("/model.pt", BODY, headers=ETAG, cuts=[1000] * 8), part)
    assert download(wanted, ignore, HASTY) == DIGEST
    assert len(site.gets()) == 9
