"""The reference's small networks under its own names, a web server that can misbehave, and catalogues."""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli_w
import torch
from huggingface_hub import constants
from torch import Tensor

from latentsync.weights import catalog, download
from latentsync.weights.catalog import WeightsEntry, find_entry


def positional_table(steps: int, channels: int) -> Tensor:
    """Sines in the even places, cosines in the odd ones; base 10000."""
    speed = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(steps)[:, None] * speed
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


@pytest.fixture
def golden_tensors(golden: Path, synthetic: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """Makes the stand-in weights of a case."""

    def make(case: str) -> dict[str, Tensor]:
        facts = json.loads((golden / f"{case}.json").read_text())
        tables = {key: shape for key, shape in facts["state_dict"].items() if "pos_encoder" in key}
        filled = synthetic.synthetic_state_dict(facts["state_dict"], facts["salt"], frozenset(tables))
        return {**filled, **{key: positional_table(*shape[1:]) for key, shape in tables.items()}}

    return make


ENDLESS = 20  # times; as good as for ever, and no disk is filled if nobody stops it


@dataclass
class Page:
    """What the local server has at one path, and how it misbehaves.

    cuts       of the next answers, only so many bytes are sent before the connection ends
    is_endless sends the body again and again, without a length
    shift      of the position that a continued answer states
    hold       nothing after the first byte until this is set
    """

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    reason: str | None = None
    cuts: list[int] = field(default_factory=list)
    takes_ranges: bool = True
    is_endless: bool = False
    shift: int = 0
    hold: threading.Event | None = None


@dataclass
class Site:
    """A web server on this machine. `asked` are (method, path, Range header) of each request."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def put(self, path: str, body: bytes = b"", **options: Any) -> str:
        """Put a page there; returns its address."""
        self.pages[path] = Page(body, **options)
        return self.url + path

    def gets(self) -> list[str | None]:
        """The ranges of the downloads so far; None for a whole one."""
        return [wanted for method, _, wanted in self.asked if method == "GET"]


class _Answer(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        wanted = self.headers["Range"]
        self.site.asked.append((self.command, self.path, wanted))
        page = self.site.pages.get(self.path, Page(status=404))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and page.takes_ranges else 0
        if start and start >= len(page.body):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else page.status, page.reason)
        if start:
            last = len(page.body) - 1
            self.send_header("Content-Range", f"bytes {start + page.shift}-{last}/{last + 1}")
        for name, value in page.headers.items():
            self.send_header(name, value)
        if not page.is_endless:
            self.send_header("Content-Length", str(len(page.body) - start))
        self.end_headers()
        if with_body:
            with contextlib.suppress(OSError):  # the other side may have gone away
                self._send(page, page.body[start:])

    def _send(self, page: Page, body: bytes) -> None:
        for _ in range(ENDLESS if page.is_endless else 0):
            self.wfile.write(page.body)
        if page.hold is not None:
            self.wfile.write(body[:1])
            self.wfile.flush()
            page.hold.wait(timeout=20)
            body = body[1:]
        self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server on this machine, empty at first."""
    found = Site()
    answer = type("Answer", (_Answer,), {"site": found})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    for page in found.pages.values():
        if page.hold is not None:
            page.hold.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WeightsEntry]:
    """Adds an entry to this test's catalogue, whose folders are all below `tmp_path`."""
    for variable, name in (("LATENTSYNC_CACHE", "cache"), ("TORCH_HOME", "torch")):
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "catalog.toml")
    tables: dict[str, Any] = {}

    def add(name: str, **facts: Any) -> WeightsEntry:
        terms = {"kind": "unet", "title": "A", "licence": "MIT", "commercial_use": "yes"}
        tables[name] = {**terms, "enables": f"{name}!", "path": f"{name}/model.pt", **facts}
        (tmp_path / "catalog.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        return find_entry(name)

    return add
