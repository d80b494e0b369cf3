"""The jobs of the service: a queue, the thread that works on it, and how long their files are kept."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from latentsync.errors import LatentSyncError
from latentsync.events import Event, Note, Progress
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.job import SyncJob
from latentsync.sync.run import run
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
RESULT = "result.mp4"
PREVIEW_EVERY_S = 0.5


class _Cancelled(Exception):
    """The client took the job back."""


@dataclass(slots=True)
class ServedJob:
    """One job and what is known of it. `folder` holds its uploads and its result."""

    identity: str
    folder: Path
    job: SyncJob
    recipe: SyncRecipe
    title: str = ""
    status: Status = "queued"
    stage: str = ""
    done: int = 0
    total: int | None = None
    preview_u8: FrameImage | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of the notes
    result: dict[str, Any] | None = None
    error: str | None = None
    hint: str | None = None
    ended_s: float | None = None
    seen_s: float = 0.0  # when the preview was taken
    is_unwanted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What a client is told: no paths of this machine."""
        result = None if self.result is None else {**self.result, "output": None}
        return {
            "id": self.identity,
            "status": self.status,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "notes": [note.replace(f"{self.folder}/", "") for note in self.notes],
            "result": result,
            "error": None if self.error is None else self.error.replace(f"{self.folder}/", ""),
            "hint": self.hint,
        }


class JobQueue:
    """Works on jobs one after the other. Ended ones are forgotten, files and all, after `keep_s` seconds."""

    def __init__(
        self, folder: Path, model: LipModel, *, most_waiting: int, keep_s: float, preview_px: int = 0
    ) -> None:
        """With `preview_px`, each job shows a finished frame of at most that width every second."""
        self.preview_px = preview_px
        self.folder, self.keep_s = folder, keep_s
        self.most_waiting = most_waiting
        self._model = model
        self._jobs: dict[str, ServedJob] = {}
        self._waiting: queue.Queue[ServedJob | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def new_folder(self) -> Path:
        """An empty folder for the uploads of a job; its name is the job's identity."""
        path = self.folder / secrets.token_urlsafe(12)
        path.mkdir(parents=True)
        return path

    def is_full(self) -> bool:
        """Whether as many jobs wait as may."""
        self.forget_old()
        with self._lock:
            return sum(job.status == "queued" for job in self._jobs.values()) >= self.most_waiting

    def add(self, folder: Path, job: SyncJob, recipe: SyncRecipe, *, title: str = "") -> ServedJob:
        """Queue a job whose uploads are in `folder`."""
        served = ServedJob(folder.name, folder, job, recipe, title)
        with self._lock:
            self._jobs[served.identity] = served
        self._waiting.put(served)
        return served

    def find(self, identity: str) -> ServedJob | None:
        """The job of that identity."""
        self.forget_old()
        with self._lock:
            return self._jobs.get(identity)

    def all(self) -> list[ServedJob]:
        """All jobs, the oldest first."""
        self.forget_old()
        with self._lock:
            return list(self._jobs.values())

    def remove(self, served: ServedJob) -> None:
        """Stop a job if it has not ended, and delete its files."""
        served.is_unwanted = True
        with self._lock:
            self._jobs.pop(served.identity, None)
        if served.status != "running":  # else its own thread deletes them
            shutil.rmtree(served.folder, ignore_errors=True)

    def forget_old(self) -> None:
        """Delete what ended long ago."""
        now_s = time.monotonic()
        with self._lock:
            old = [one for one in self._jobs.values() if one.ended_s and now_s - one.ended_s > self.keep_s]
        for served in old:
            self.remove(served)

    def close(self) -> None:
        """Stop the work, and delete every file."""
        for served in self.all():
            self.remove(served)
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (served := self._waiting.get()) is not None:
            if served.is_unwanted:
                continue
            served.status = "running"
            status: Status = "done"
            try:
                self._run(served)
            except _Cancelled:
                status = "cancelled"
            except LatentSyncError as error:
                status, served.error, served.hint = "failed", str(error), error.hint
            except Exception as error:  # a bug must not end the service
                traceback.print_exc()
                status, served.error = "failed", f"{type(error).__name__}: this is a bug in latentsync"
            for path in (served.job.video, served.job.speech):
                path.unlink(missing_ok=True)
            served.ended_s = time.monotonic()
            served.status = status  # last: other threads read the rest once they see it
            if served.is_unwanted:
                shutil.rmtree(served.folder, ignore_errors=True)

    def _keep_preview(self, served: ServedJob, event: Progress) -> None:
        now_s = time.monotonic()
        if not self.preview_px or event.picture is None or now_s - served.seen_s < PREVIEW_EVERY_S:
            return
        served.seen_s = now_s
        rgb_u8 = event.picture()
        shrink = max(1.0, rgb_u8.shape[1] / self.preview_px)
        size = (round(rgb_u8.shape[1] / shrink), round(rgb_u8.shape[0] / shrink))
        served.preview_u8 = np.asarray(cv2.resize(rgb_u8, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _run(self, served: ServedJob) -> None:
        def report(event: Event) -> None:
            if served.is_unwanted:
                raise _Cancelled
            match event:
                case Progress(stage, done, total):
                    served.stage, served.done, served.total = stage, done, total
                    self._keep_preview(served, event)
                case Note(message, level):
                    served.notes.append(message)
                    served.warnings += [message] if level == "warning" else []

        served.seen_s = time.monotonic()
        served.result = run(served.job, served.recipe, report, model=self._model).as_dict()
