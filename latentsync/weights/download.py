"""Brings the file of one plain address to disk: bounded, hashed, and continued where it stopped."""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from latentsync import __version__
from latentsync.errors import WeightsError
from latentsync.events import Note, Progress, Report
from latentsync.files import BLOCK_BYTES, sha256_of
from latentsync.weights.catalog import WeightsEntry

TIMEOUT_S = 30.0  # without a byte, before the connection counts as lost
TRIES = 4
PAUSE_S = 1.0  # after the first try; it doubles from then on
CEILING_BYTES = 16_000_000_000  # for a file of unknown size; three times the largest known one
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be better a moment later
LONGEST_TEXT = 200  # letters of a server's words that are shown
REACH = (
    "check the network, or set HTTPS_PROXY (a proxy) or HF_ENDPOINT (a mirror of the hub), "
    "or copy the file from elsewhere with --from DIR"
)


class _Interrupted(Exception):
    """The connection failed in a way that may pass."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTPS, and from HTTP to HTTP, and to nothing else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https:",) if req.full_url.startswith("https:") else ("https:", "http:")
        if not newurl.lower().startswith(allowed):
            message = f"'{req.full_url}' redirects to '{plain(newurl)}', which is not followed"
            raise WeightsError(message, hint="use another mirror")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(entry: WeightsEntry, path: Path, report: Report) -> str:
    """Bring the file at `entry.url` to `path`, which appears whole and checked or not at all.

    What came before an interruption stays beside `path` and is continued, here and by a later call, where the
    catalogue has the hash that tells whether the pieces fit together.

    Returns:
        Its SHA-256.

    Raises:
        WeightsError: the server refuses, sends something else, never ends or keeps failing.
        OSError: the file cannot be written.
    """
    part = part_of(path)
    was_begun = part.exists()
    try:
        return _try(entry, path, part, report, was_begun=was_begun)
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _try(entry: WeightsEntry, path: Path, part: Path, report: Report, *, was_begun: bool) -> str:
    for attempt in range(1, TRIES + 1):
        try:
            _fetch_rest(entry, part, report)
            found = sha256_of(part)
            if entry.sha256 in (None, found):
                os.replace(part, path)
                return found
            part.unlink()
            if not was_begun:
                message = f"'{entry.url}' has the SHA-256 {found}, expected {entry.sha256}"
                raise WeightsError(message, hint="use another mirror")
            was_begun = False
            raise _Interrupted("the partial file of an earlier pull was damaged")
        except _Interrupted as interruption:
            if attempt == TRIES:
                hint = "run the same command again" if part.exists() else REACH
                raise WeightsError(f"'{entry.url}': {interruption}", hint=hint) from interruption
            pause_s = PAUSE_S * 2 ** (attempt - 1)
            report(Note(f"{path.name}: {interruption}; trying again in {pause_s:g} s", level="warning"))
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def part_of(path: Path) -> Path:
    """Where the unfinished file of `path` lies."""
    return path.with_name(f"{path.name}.part")


def plain(text: str) -> str:
    """A server's words without what would move the cursor or hide on a terminal, and not too many of them.

    >>> plain("not" + chr(27) + "[2J found")
    'not[2J found'
    """
    return "".join(letter for letter in text[: 4 * LONGEST_TEXT] if letter.isprintable())[:LONGEST_TEXT]


def in_megabytes(count: float) -> int:
    """Bytes as megabytes, rounded up, so that a small file is not nothing."""
    return int(-(-count // 1_000_000))


def cannot_write(path: Path, error: Exception) -> WeightsError:
    """The failure to write at `path`, with its remedy."""
    reason = getattr(error, "strerror", None) or str(error)
    return WeightsError(
        f"cannot write '{path}': {reason[:1].lower()}{reason[1:]}",
        hint="free some space, or set HF_HOME and LATENTSYNC_CACHE to writable folders, then run the same"
        " command again",
    )


def _fetch_rest(entry: WeightsEntry, part: Path, report: Report) -> None:
    """Bring what `part` lacks of the file, into `part`."""
    with _open_part(part) as file:
        offset = file.seek(0, os.SEEK_END)
        if entry.sha256 is None or offset > _most_bytes(entry):
            offset = _restart(file)
        if offset and offset == entry.size_bytes:
            return
        with _ask(str(entry.url), offset, file) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                offset = _restart(file)
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                _restart(file)
                raise _Interrupted("the server continued at the wrong position")
            total = _total_bytes(entry, answer, offset)
            while block := _read(answer):
                offset += len(block)
                if offset > (total or _most_bytes(entry)):
                    _restart(file)
                    raise _refusal(entry, f"the server sent more than {total or _most_bytes(entry)} bytes")
                file.write(block)
                in_all = in_megabytes(total) if total else None
                report(Progress(part.stem, in_megabytes(offset), in_all, "MB"))
            if total is not None and offset < total:
                raise _Interrupted(f"the connection ended after {offset} of {total} bytes")
        file.flush()
        os.fsync(file.fileno())  # some disks say only here that they are full


def _open_part(part: Path) -> IO[bytes]:
    """Open the part for writing at its end. A link is removed: it may lead to anybody's file."""
    if part.is_symlink():
        part.unlink()
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "r+b")


def _restart(file: IO[bytes]) -> int:
    file.seek(0)
    file.truncate()
    return 0


def _ask(url: str, offset: int, part: IO[bytes]) -> http.client.HTTPResponse:
    """Open the address from byte `offset` on, which is where `part` ends."""
    headers = {"User-Agent": f"latentsync/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    context = ssl.create_default_context()
    with suppress(ImportError):  # some Pythons come without any certificate authorities
        import certifi

        context.load_verify_locations(certifi.where())
    opener = urllib.request.build_opener(_SafeRedirects, urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers=headers)
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=TIMEOUT_S))
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            _restart(part)
            raise _Interrupted("the server cannot resume the partial download") from error
        reason = f"the server answered {error.code} {plain(str(error.reason))}"
        if error.code in BUSY:
            raise _Interrupted(reason) from error
        raise WeightsError(f"'{url}': {reason}", hint=REACH) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _total_bytes(entry: WeightsEntry, answer: http.client.HTTPResponse, offset: int) -> int | None:
    """The size of the whole file as the server states it, checked against what is known."""
    if answer.headers.get_content_type() == "text/html":
        raise _refusal(entry, "the server sent a web page instead of the file")
    length = answer.headers.get("Content-Length", "")
    if not length.isdecimal():
        return entry.size_bytes
    total = offset + int(length)
    if entry.size_bytes not in (None, total) or total > _most_bytes(entry):
        expected = entry.size_bytes or f"at most {_most_bytes(entry)}"
        raise _refusal(entry, f"the server offers {total} bytes, expected {expected}")
    return total


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _most_bytes(entry: WeightsEntry) -> int:
    return entry.size_bytes or 2 * (entry.about_bytes or CEILING_BYTES // 2)


def _refusal(entry: WeightsEntry, reason: str) -> WeightsError:
    return WeightsError(f"'{entry.url}': {reason}", hint=REACH)


def _reason(error: Exception) -> str:
    """What broke a connection, in words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT_S:g} s"
    return f"the connection failed ({plain(str(cause))})" if str(cause) else "the connection failed"
