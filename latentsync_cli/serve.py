"""`latentsync serve`: the model as an HTTP service."""

from __future__ import annotations

from typing import Annotated

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import DeviceOption, DtypeOption, ModelOption

LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
    import socket
    from pathlib import Path
    from tempfile import TemporaryDirectory

    try:
        import uvicorn

        from latentsync.serve.app import Limits, make_app
    except ImportError as error:
        raise UsageError(
            f"latentsync serve: {error.name} is not installed", hint="run: pip install 'latentsync[serve]'"
        ) from error
    from latentsync.api import load
    from latentsync.serve.jobs import JobQueue

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"'{host}' port {port}: cannot be used ({error.strerror})", hint="choose another --port"
            ) from error
        if token is None and host not in LOOPBACK:
            token = secrets.token_urlsafe(24)
            console.print_message(f"token: {token}")
        loaded = load(model or "compact", device=device, dtype=dtype)
        with TemporaryDirectory(prefix="latentsync-serve-") as folder:
            jobs = JobQueue(Path(folder), loaded.networks, most_waiting=max_waiting, keep_s=keep)
            app = make_app(jobs, Limits(max_upload * 1_000_000, token))
            console.print_message(
                f"serving {loaded.name} on {loaded.device} at http://{host}:{port}, documented at /docs"
            )
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
