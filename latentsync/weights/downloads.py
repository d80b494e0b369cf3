"""Brings the bytes of one address to disk: continued after an interruption, bounded, hashed on the way."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from os import fsync
from pathlib import Path
from typing import IO, Any, cast

from latentsync import __version__
from latentsync.errors import WeightsError
from latentsync.events import Note, Progress, Report
from latentsync.weights.records import BLOCK_BYTES, cannot_write, in_megabytes

SPARE_BYTES = 64 << 20  # left free on the disk
WORTH_BYTES = 16 << 20  # so much since the last interruption, and the retries start afresh
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be better a moment later
TRY_AGAIN = "run the same command again: it goes on where it stopped"
REACH = (
    "check the network, or set HTTPS_PROXY (a proxy) or HF_ENDPOINT (a mirror of the hub), "
    "or bring the file from elsewhere with --from DIR"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to fetch.

    part           where the bytes go; what is there from an earlier time is continued
    label          the name in the progress bar
    size_bytes     exactly, where it is known
    ceiling_bytes  never more than this, whatever the server says
    is_fixed       the address always means the same bytes, or a hash will tell: then a part is continued even
                   where the server gives it no version
    """

    url: str
    part: Path
    label: str
    size_bytes: int | None
    ceiling_bytes: int
    is_fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a server.

    timeout_s  without a single byte, before the connection counts as lost
    retries    in a row, with a pause that doubles from `backoff_s`
    """

    timeout_s: float = 30.0
    retries: int = 3
    backoff_s: float = 1.0


class _Interrupted(Exception):
    """The connection failed in a way that may pass."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from an encrypted address to a plain one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise WeightsError(
                f"'{req.full_url}' leads to the unencrypted address '{newurl}'", hint="use another mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(order: Order, report: Report, patience: Patience) -> str:
    """Bring the whole of `order` into its part file.

    Interruptions are retried; what is there is kept, here and when this fails or is stopped.

    Returns:
        The SHA-256 of the part file, which is complete and flushed to disk.

    Raises:
        WeightsError: the server refuses, sends something else, never ends or keeps failing; the disk is full.
    """
    failures, had = 0, -WORTH_BYTES
    while True:
        try:
            return _fetch_rest(order, report, patience.timeout_s)
        except _Interrupted as interruption:
            have = order.part.stat().st_size if order.part.exists() else 0
            failures = 1 if have - had >= WORTH_BYTES else failures + 1
            had = have
            if failures > patience.retries:
                hint = TRY_AGAIN if have else REACH
                raise WeightsError(f"'{order.url}': {interruption}", hint=hint) from interruption
            pause_s = patience.backoff_s * 2 ** (failures - 1)
            report(Note(f"{order.label}: {interruption}; trying again in {pause_s:g} s", level="warning"))
            time.sleep(pause_s)
        except OSError as error:
            raise cannot_write(order.part, error) from error
        finally:
            if order.part.exists() and not order.part.stat().st_size:
                discard(order.part)


def discard(part: Path) -> None:
    """Remove a part file and what was noted about it."""
    for path in (part, _notes(part)):
        path.unlink(missing_ok=True)


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk of `folder` cannot hold.

    Raises:
        WeightsError: there is less free.
    """
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise WeightsError(
            f"'{folder}': {in_megabytes(needed_bytes)} MB are needed, {in_megabytes(free_bytes)} MB are free",
            hint="free some space, or set LATENTSYNC_CACHE to a folder on another disk",
        )


def _fetch_rest(order: Order, report: Report, timeout_s: float) -> str:
    order.part.parent.mkdir(parents=True, exist_ok=True)
    version = _continued_version(order)
    if version is None:
        discard(order.part)
    with order.part.open("a+b") as file:
        digest = _hash_so_far(file)
        offset = file.tell()
        if order.size_bytes is not None and offset == order.size_bytes:
            return str(digest.hexdigest())
        answer = _ask(order, offset, version or "", timeout_s)
        if answer is not None:  # else the server says that nothing is left to send
            with answer:
                if answer.status != http.client.PARTIAL_CONTENT and offset:
                    file.truncate(0)
                    digest, offset = hashlib.sha256(), 0
                total = _total(order, answer, offset)
                check_room(order.part.parent, (total or offset) - offset)
                _note_version(order, answer)
                for block in _blocks(order, answer, offset, total, report, timeout_s):
                    file.write(block)
                    digest.update(block)
        file.flush()
        fsync(file.fileno())
    return str(digest.hexdigest())


def _hash_so_far(file: IO[bytes]) -> Any:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest


def _ask(order: Order, offset: int, version: str, timeout_s: float) -> http.client.HTTPResponse | None:
    """Open the address from byte `offset` on; None when those are all bytes there are."""
    headers = {"User-Agent": f"latentsync/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version and not order.is_fixed:
            headers["If-Range"] = version  # mirrors behind one address may name equal bytes differently
    # A new opener each time, so that proxies are those that the environment names now.
    opener = urllib.request.build_opener(
        _SafeRedirects, urllib.request.HTTPSHandler(context=_trusted_authorities())
    )
    request = urllib.request.Request(order.url, headers=headers)
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=timeout_s))
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
                return None
            discard(order.part)
            raise _Interrupted("the server cannot continue the part that is here") from error
        if error.code in BUSY:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        message = f"'{order.url}': the server answered {error.code} {error.reason}"
        raise WeightsError(message, hint=REACH) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error, timeout_s)) from error


def _total(order: Order, answer: http.client.HTTPResponse, offset: int) -> int | None:
    """The size of the whole file as the server says it, checked against what is known."""
    if (answer.headers.get_content_type() == "text/html") and not order.url.endswith(".html"):
        message = f"'{order.url}': the server sent a web page instead of the file"
        raise WeightsError(message, hint=REACH)
    total = order.size_bytes
    length = answer.headers.get("Content-Length", "")
    if answer.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            discard(order.part)
            raise _Interrupted("the server continued at another place than it was asked to")
        said = None if found[2] == "*" else int(found[2])
    else:
        said = int(length) if length.isdecimal() else None
    if said is None:
        return total
    if (total is not None and said != total) or said > order.ceiling_bytes:
        expected = f"{total}" if total is not None else f"at most {order.ceiling_bytes}"
        raise WeightsError(
            f"'{order.url}': the server offers {said} bytes, expected {expected}", hint="use another mirror"
        )
    return said


def _blocks(
    order: Order,
    answer: http.client.HTTPResponse,
    offset: int,
    total: int | None,
    report: Report,
    timeout_s: float,
) -> Iterator[bytes]:
    """What the server sends from `offset` on, up to `total` or the ceiling."""
    while True:
        try:
            block = answer.read1(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(_reason(error, timeout_s)) from error
        if not block:
            break
        offset += len(block)
        if offset > (total or order.ceiling_bytes):
            discard(order.part)
            message = f"'{order.url}': the server sent more than {total or order.ceiling_bytes} bytes"
            raise WeightsError(message, hint="use another mirror")
        yield block
        report(Progress(order.label, in_megabytes(offset), in_megabytes(total) if total else None, "MB"))
    if total is not None and offset < total:
        raise _Interrupted(f"the connection ended after {offset} of {total} bytes")


def _reason(error: Exception, timeout_s: float) -> str:
    """What broke a connection, in words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {timeout_s:g} s"
    return f"the connection failed ({cause})" if str(cause) else "the connection failed"


@functools.cache
def _trusted_authorities() -> ssl.SSLContext:
    """The system's certificate authorities, and certifi's, since some Pythons come with none."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _note_version(order: Order, answer: http.client.HTTPResponse) -> None:
    """Keep beside the part which version of the file it is the beginning of."""
    tag = answer.headers.get("ETag", "")
    # A weak tag does not promise equal bytes and may not be sent with a range.
    version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    _notes(order.part).write_text(json.dumps({"url": order.url, "version": version}), encoding="utf-8")


def _continued_version(order: Order) -> str | None:
    """The version of the part that is here, "" where only the address tells it; None to start afresh."""
    try:
        notes = json.loads(_notes(order.part).read_text(encoding="utf-8"))
        version = str(notes["version"])
        is_same = notes["url"] == order.url and order.part.exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    too_long = is_same and order.size_bytes is not None and order.part.stat().st_size > order.size_bytes
    return version if is_same and not too_long and (version or order.is_fixed) else None
