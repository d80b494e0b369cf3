"""`latentsync serve` and `latentsync ui`: the model as an HTTP service, and as a page for this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import AutoDtype, DeviceOption, DtypeOption, ModelOption

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PREVIEW_PX = 480
HostOption = Annotated[
    str, typer.Option(help="The address to listen at; others than 127.0.0.1 need a token.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        help="What clients must send as a bearer token.", show_default="none on 127.0.0.1, else made"
    ),
]
UploadOption = Annotated[int, typer.Option(min=1, metavar="MB", help="The largest upload.")]
WaitingOption = Annotated[int, typer.Option(min=1, metavar="N", help="How many jobs may wait.")]
KeepOption = Annotated[float, typer.Option(min=1, metavar="S", help="How long ended jobs are kept.")]


def serve(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_upload: UploadOption = 2000,
    max_waiting: WaitingOption = 100,
    keep: KeepOption = 3600.0,
) -> None:
    """Serve the model over HTTP: POST a job, follow it, GET the result."""
    import secrets

    with _explained("serve", "serve"):
        import latentsync.serve.app  # noqa: F401
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(24)
        console.print_message(f"token: {token}")
    with _listening(host, port) as listener:
        _run(
            listener, token, Networks(model, device, dtype), Queued(max_upload, max_waiting, keep), page=False
        )


def ui(
    port: PortOption = 7860,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_upload: UploadOption = 2000,
    max_waiting: WaitingOption = 100,
    keep: KeepOption = 3600.0,
) -> None:
    """Open a page for this machine: a video and speech in, the face picked by a click."""
    with _explained("ui", "ui"):
        import latentsync.serve.page  # noqa: F401
    with _listening("127.0.0.1", port) as listener:
        _run(listener, None, Networks(model, device, dtype), Queued(max_upload, max_waiting, keep), page=True)


class Networks(NamedTuple):
    """Which model runs where."""

    model: str | None
    device: str
    dtype: AutoDtype


class Queued(NamedTuple):
    """The limits of the queue."""

    upload_mb: int
    waiting: int
    keep_s: float


@contextmanager
def _explained(command: str, extra: str) -> Iterator[None]:
    """Say which extra brings what cannot be imported."""
    try:
        import uvicorn  # noqa: F401

        yield
    except ImportError as error:
        raise UsageError(
            f"latentsync {command}: {error.name} is not installed",
            hint=f"run: pip install 'latentsync[{extra}]'",
        ) from error


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound: a port in use is known before a model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"'{host}' port {port}: cannot be used ({error.strerror})", hint="choose another --port"
            ) from error
        yield listener


def _run(
    listener: socket.socket, token: str | None, networks: Networks, queued: Queued, *, page: bool
) -> None:
    import uvicorn

    from latentsync.api import load
    from latentsync.serve.app import Limits, make_app
    from latentsync.serve.jobs import JobQueue

    loaded = load(networks.model or "compact", device=networks.device, dtype=networks.dtype)
    with TemporaryDirectory(prefix="latentsync-serve-") as folder:
        jobs = JobQueue(
            Path(folder) / "jobs",
            loaded.networks,
            most_waiting=queued.waiting,
            keep_s=queued.keep_s,
            preview_px=PREVIEW_PX if page else 0,
        )
        app = make_app(jobs, Limits(queued.upload_mb * 1_000_000, token))
        if page:
            from latentsync.serve.page import add_page

            app = add_page(app, jobs, Path(folder) / "uploads", most_bytes=queued.upload_mb * 1_000_000)
        host, port = listener.getsockname()[:2]
        what = "open" if page else f"serving {loaded.name} on {loaded.device} at"
        console.print_message(f"{what} http://{host}:{port}{'' if page else ', documented at /docs'}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
