"""The HTTP interface of the service: POST a job, poll or stream its progress, GET the result."""

import asyncio
import hmac
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException as StarletteError

from latentsync import __version__
from latentsync.errors import LatentSyncError
from latentsync.faces.choice import parse_face_choice
from latentsync.recipe.sync import EffortName
from latentsync.serve.jobs import ENDED, RESULT, JobQueue, ServedJob
from latentsync.sync.options import SyncOptions, choose_recipe, make_job

POLL_S = 0.2
_BLOCK_BYTES = 1 << 20
# For the description of the interface; what is sent is read as on the command line, with its messages.
TIME = r"^(([0-9]{1,3}:)?[0-9]{1,2}:)?[0-9]{1,6}(\.[0-9]{1,6})?$"
FACE = rf"^(largest|left|right|speaker|[0-9]{{1,3}}|(@{TIME[1:-1]}:)?[0-9]{{1,5}},[0-9]{{1,5}})$"
SOUND = r"^(replace|duck|mix(:-?[0-9]{1,2})?)$"
Absent = SkipJsonSchema[None]  # a form has no null
# Beyond 2^53 readers of JSON round: the bound of recipes, 2^63, would be described as a larger number.
Seed = Annotated[int, Field(ge=0, lt=2**53)]
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service takes: uploads of so many bytes, and a token if it is not None."""

    most_upload_bytes: int
    token: str | None = None


class _TooLarge(Exception):
    """A body grew beyond the limit."""


class Guard:
    """Refuses requests before anything is read of them, and bodies that grow too large (ASGI middleware).

    Without a token the service answers only requests that name this machine, and none of other web pages:
    a page in a browser could send some to 127.0.0.1, too.
    """

    def __init__(self, app: Any, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limits.most_upload_bytes:
                raise _TooLarge
            return message

        async def answered(message: Any) -> None:
            if taken <= self._limits.most_upload_bytes:  # else FastAPI's answer is about the broken body
                await send(message)

        with suppress(_TooLarge):
            await self._app(scope, counted, answered)
        if taken > self._limits.most_upload_bytes:
            await self._too_large()(scope, receive, send)

    def _refusal(self, headers: dict[str, str]) -> Response | None:
        token = self._limits.token
        if token is not None:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _failure(401, "a token is needed", "send the header 'Authorization: Bearer TOKEN'")
        else:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name not in LOCAL_NAMES:
                return _failure(403, f"'{name}' is not this machine", "call http://127.0.0.1")
            if headers.get("origin", f"http://{host}") != f"http://{host}":
                return _failure(403, "another web page may not use this service", "call it directly")
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > self._limits.most_upload_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Response:
        most = self._limits.most_upload_bytes / 1e6
        return _failure(413, f"the upload is larger than {most:.0f} MB", "cut the video, or raise the limit")


def make_app(jobs: JobQueue, limits: Limits) -> FastAPI:
    """The application. It owns `jobs`, which end with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(jobs.close)

    app = FastAPI(title="latentsync", version=__version__, lifespan=lifespan)
    routes = _Routes(jobs)
    refused = _described(401, 403, 413, 422)
    unknown = {**refused, **_described(404)}
    events: Responses = {
        200: {"content": {"text/event-stream": {}}, "description": "The job, when it changes"}
    }
    video: Responses = {200: {"content": {"video/mp4": {}}, "description": "The video"}}
    for path, answer, method, status, responses in (
        ("/jobs", routes.create, "POST", 202, {**refused, **_described(400, 429)}),
        ("/jobs", routes.index, "GET", 200, refused),
        ("/jobs/{identity}", routes.show, "GET", 200, unknown),
        ("/jobs/{identity}", routes.remove, "DELETE", 204, unknown),
        ("/jobs/{identity}/events", routes.events, "GET", 200, {**unknown, **events}),
        ("/jobs/{identity}/result", routes.result, "GET", 200, {**unknown, **_described(409), **video}),
    ):
        app.add_api_route(path, answer, methods=[method], status_code=status, responses=responses)
    app.add_exception_handler(LatentSyncError, _on_error)
    app.add_exception_handler(StarletteError, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(Guard, limits=limits)
    return app


Responses = dict[int | str, dict[str, Any]]


class Failure(BaseModel):
    """What every refusal says, and what can be done about it."""

    error: str
    hint: str | None


def _described(*statuses: int) -> Responses:
    """Refusals with these statuses, for the description of a route."""
    return {status: {"model": Failure} for status in statuses}


class _Routes:
    """The routes; FastAPI reads their signatures."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs

    async def create(
        self,
        video: Annotated[UploadFile, File(description="A video or a picture.")],
        speech: Annotated[UploadFile, File(description="The speech.")],
        face: Annotated[str, Form(json_schema_extra={"pattern": FACE})] = "largest",
        start: Annotated[str, Form(json_schema_extra={"pattern": TIME})] = "0",
        end: Annotated[str | Absent, Form(json_schema_extra={"pattern": TIME})] = None,
        duration: Annotated[Literal["speech", "video", "loop", "ping-pong", "hold"], Form()] = "speech",
        effort: Annotated[EffortName | Absent, Form()] = None,
        seed: Annotated[Seed | Absent, Form()] = None,
        keep_audio: Annotated[str, Form(json_schema_extra={"pattern": SOUND})] = "replace",
        label: Annotated[str, Form(max_length=200)] = "",
    ) -> dict[str, Any]:
        """Queue a job."""
        if self._jobs.is_full():
            raise HTTPException(429, "too many jobs wait: come back later")
        if parse_face_choice(face).picture is not None:
            raise HTTPException(422, "face: a picture cannot be named here")
        folder = await asyncio.to_thread(self._jobs.new_folder)
        try:
            pictures = await _save(video, folder / "video")
            sound = await _save(speech, folder / "speech")
            options = SyncOptions(
                face=face,
                start=start,
                end=end,
                duration=duration,
                effort=effort,
                seed=seed,
                keep_audio=keep_audio,
                label=label,
            )
            job, recipe = make_job(pictures, sound, folder / RESULT, options), choose_recipe(options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self._jobs.add(folder, job, recipe).as_dict()

    async def index(self) -> list[dict[str, Any]]:
        """All jobs."""
        return [served.as_dict() for served in self._jobs.all()]

    async def show(self, identity: str) -> dict[str, Any]:
        """One job: its status, its progress, and what came of it."""
        return self._find(identity).as_dict()

    async def remove(self, identity: str) -> None:
        """Stop a job, and delete its files."""
        await asyncio.to_thread(self._jobs.remove, self._find(identity))

    async def events(self, identity: str, request: Request) -> StreamingResponse:
        """The job as server-sent events, one whenever it changes, until it ends."""
        served = self._find(identity)

        async def stream() -> AsyncIterator[str]:
            last = ""
            while not await request.is_disconnected():
                text = json.dumps(served.as_dict())
                if text != last:
                    yield f"data: {text}\n\n"
                last = text
                if served.status in ENDED or served.is_unwanted:
                    return
                await asyncio.sleep(POLL_S)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def result(self, identity: str) -> FileResponse:
        """The finished video."""
        served = self._find(identity)
        if served.status != "done":
            raise HTTPException(409, f"the job is {served.status}")
        return FileResponse(served.folder / RESULT, media_type="video/mp4", filename=f"{identity}.mp4")

    def _find(self, identity: str) -> ServedJob:
        served = self._jobs.find(identity)
        if served is None:
            raise HTTPException(404, "there is no such job, or it ended long ago")
        return served


async def _save(upload: UploadFile, path: Path) -> Path:
    """Write an upload to `path` with the suffix that it came with, as far as that is a plain one."""
    suffix = Path(upload.filename or "").suffix.lower()
    path = path.with_suffix(suffix if suffix[1:].isalnum() and suffix.isascii() else "")
    with path.open("xb") as file:
        while block := await upload.read(_BLOCK_BYTES):
            file.write(block)
    return path


def _failure(status: int, error: str, hint: str | None) -> JSONResponse:
    return JSONResponse({"error": error, "hint": hint}, status_code=status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    return _failure(getattr(error, "status_code", 500), str(getattr(error, "detail", error)), None)


async def _on_invalid(request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    text = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in faults)
    return _failure(422, text or "the request cannot be read", "see /docs")


async def _on_error(request: Request, error: Exception) -> Response:
    return _failure(422, str(error), getattr(error, "hint", None))
