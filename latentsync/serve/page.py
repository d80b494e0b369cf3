"""The page of `latentsync ui`: a video and speech in, the face picked by a click, the result beside them."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import cv2
import gradio as gr
import numpy as np
from fastapi import FastAPI

from latentsync.errors import LatentSyncError, UsageError
from latentsync.faces.choice import FaceChoice, parse_face_choice
from latentsync.faces.detect import Detector
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import choose_landmarker
from latentsync.media.read import measure_video, read_frames
from latentsync.recipe.sync import EffortName
from latentsync.serve.jobs import ENDED, RESULT, JobQueue, ServedJob
from latentsync.sync.options import SyncOptions, choose_recipe, make_job
from latentsync.types import FrameImage

SHOWN_PX = 720  # width of the frame that is clicked
TICK_S = 0.5
GREEN = (80, 220, 90)
HEADS = ["job", "video", "status", "frames"]
# Fonts of the machine: the default theme loads its own from another site.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


class Page:
    """What the page's elements do. All jobs are those of one queue, whoever looks at them."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs

    @cached_property
    def _finder(self) -> Follower:
        return Follower(FaceChoice(), Detector(), choose_landmarker(), FollowSettings())

    def show_frame(self, video: str | None, time_s: float) -> FrameImage | None:
        """The frame at that time, with a box around each face."""
        if video is None:
            return None
        try:
            rgb_u8 = next(iter(read_frames(Path(video), start_s=time_s))).rgb_u8.copy()
        except LatentSyncError as error:
            raise gr.Error(_words(error)) from error
        thick = max(1, round(rgb_u8.shape[1] / 300))
        for face in self._finder.faces(rgb_u8):
            left, top, right, bottom = (round(float(edge)) for edge in face.box)
            cv2.rectangle(rgb_u8, (left, top), (right, bottom), GREEN, thick)
        width = min(SHOWN_PX, rgb_u8.shape[1])
        size = (width, round(rgb_u8.shape[0] * width / rgb_u8.shape[1]))
        return np.asarray(cv2.resize(rgb_u8, size, interpolation=cv2.INTER_AREA), np.uint8)

    def take_video(self, video: str | None) -> tuple[Any, FrameImage | None]:
        """The slider over its length, and its first frame."""
        if video is None:
            return gr.skip(), None
        try:
            info = measure_video(Path(video))
        except LatentSyncError as error:
            raise gr.Error(_words(error)) from error
        last_s = max(0.1, info.duration_s - 1 / float(info.fps))
        return gr.update(maximum=round(last_s, 2), value=0), self.show_frame(video, 0.0)

    def pick(self, video: str, time_s: float, shown: FrameImage, click: gr.SelectData) -> str:
        """The clicked point as `--face` takes it, in pixels of the video."""
        info = measure_video(Path(video))
        zoom = info.width / shown.shape[1]
        x, y = (round(float(value) * zoom) for value in click.index)
        return f"@{time_s:g}:{x},{y}"

    def add(
        self, video: str | None, speech: str | None, face: str, effort: str, keep_audio: str, label: str
    ) -> tuple[str, list[list[str]]]:
        """Queue a job; gives its identity, and the jobs."""
        try:
            if not video or not speech:
                raise UsageError(
                    "a video and speech are needed", hint="choose both files, or record the speech"
                )
            if parse_face_choice(face or "largest").picture is not None:
                raise UsageError("a picture cannot be named here", hint="click on the face")
            if self._jobs.is_full():
                raise UsageError("too many jobs wait", hint="come back later")
            return self._queued(Path(video), Path(speech), face, effort, keep_audio, label)
        except LatentSyncError as error:
            raise gr.Error(_words(error)) from error

    def _queued(
        self, video: Path, speech: Path, face: str, effort: str, keep_audio: str, label: str
    ) -> tuple[str, list[list[str]]]:
        folder = self._jobs.new_folder()
        try:
            # Copies, because a job deletes its inputs and the page goes on showing them.
            own_video = shutil.copy(video, folder / f"video{video.suffix.lower()}")
            own_speech = shutil.copy(speech, folder / f"speech{speech.suffix.lower()}")
            options = SyncOptions(
                face=face or "largest",
                effort=effort,  # type: ignore[typeddict-item]
                keep_audio=keep_audio,
                label=label,
            )
            job = make_job(own_video, own_speech, folder / RESULT, options)
            served = self._jobs.add(folder, job, choose_recipe(options), title=video.name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return served.identity, self.table()

    def table(self) -> list[list[str]]:
        """A row for each job, the newest first."""
        return [
            [job.identity, job.title, job.status, f"{job.done}/{job.total or '?'}" if job.done else ""]
            for job in reversed(self._jobs.all())
        ]

    def follow(self, identity: str, shown: str) -> tuple[Any, ...]:
        """What changed of the job that is shown: words, a preview, the result once, and the jobs.

        Args:
            shown: the job whose result is on the page already.
        """
        job = self._jobs.find(identity) if identity else None
        if job is None:
            return "", gr.update(value=None, visible=False), gr.skip(), shown, self.table()
        is_new = job.status == "done" and shown != identity
        result = str(job.folder / RESULT) if is_new else gr.skip()
        picture = None if job.status in ENDED else job.preview_u8
        preview = gr.update(value=picture, visible=picture is not None)
        return _describe(job), preview, result, identity if is_new else shown, self.table()

    def choose(self, click: gr.SelectData) -> tuple[str, str]:
        """The job whose row was clicked; its result is not shown yet."""
        return str(click.row_value[0]), ""

    def remove(self, identity: str) -> tuple[str, list[list[str]]]:
        """Stop the job that is shown, and delete its files; gives no identity, and the jobs that are left."""
        job = self._jobs.find(identity)
        if job is not None:
            self._jobs.remove(job)
        return "", self.table()

    def build(self) -> gr.Blocks:
        """The page itself."""
        with gr.Blocks(
            title="latentsync",
            analytics_enabled=False,
            delete_cache=(60, round(self._jobs.keep_s)),
            fill_width=True,
        ) as blocks:
            chosen, shown = gr.State(""), gr.State("")
            with gr.Row():
                video = gr.Video(label="Video", sources=["upload"], elem_id="video", height=320)
                result = gr.Video(label="Result", interactive=False, elem_id="result", height=320)
            with gr.Row():
                with gr.Column():
                    speech = gr.Audio(
                        label="Speech", sources=["upload", "microphone"], type="filepath", elem_id="speech"
                    )
                    time_s = gr.Slider(0, 1, 0, step=0.04, label="Time in the video (s)")
                    frame = gr.Image(
                        label="Click on the face", interactive=False, elem_id="frame", buttons=[], height=320
                    )
                    face = gr.Textbox(
                        "largest",
                        label="Face",
                        info="largest, left, right, speaker (whoever speaks), or a click on the picture",
                        elem_id="face",
                    )
                with gr.Column():
                    effort = gr.Radio(list(get_args(EffortName)), value="standard", label="Effort")
                    keep_audio = gr.Radio(
                        ["replace", "mix", "duck"], value="replace", label="The video's own sound"
                    )
                    label = gr.Textbox("", label="Label in the picture", info="for example: synthetic")
                    make = gr.Button("Make", variant="primary", elem_id="make")
                    words = gr.Markdown("", elem_id="words")
                    preview = gr.Image(
                        label="Now",
                        interactive=False,
                        elem_id="preview",
                        buttons=[],
                        height=240,
                        visible=False,
                    )
                    jobs = gr.Dataframe(
                        headers=HEADS, value=self.table, interactive=False, label="Jobs", elem_id="jobs"
                    )
                    remove = gr.Button("Stop and delete this job", elem_id="remove")
            inputs = [video, speech, face, effort, keep_audio, label]
            video.change(self.take_video, [video], [time_s, frame])
            time_s.release(self.show_frame, [video, time_s], frame)
            frame.select(self.pick, [video, time_s, frame], face)
            make.click(self.add, inputs, [chosen, jobs])
            jobs.select(self.choose, None, [chosen, shown])
            remove.click(self.remove, chosen, [chosen, jobs])
            gr.Timer(TICK_S).tick(
                self.follow, [chosen, shown], [words, preview, result, shown, jobs], show_progress="hidden"
            )
        return blocks


def add_page(app: FastAPI, jobs: JobQueue, uploads: Path, *, most_bytes: int) -> FastAPI:
    """Put the page at the root of an application, whose other routes stay.

    Args:
        uploads: the folder in which gradio keeps what it is sent; whoever calls deletes it.
        most_bytes: of one file.
    """
    uploads.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # it has no other way to be told
    found: FastAPI = gr.mount_gradio_app(
        app,
        Page(jobs).build(),
        path="",
        server_name="127.0.0.1",
        allowed_paths=[str(jobs.folder)],
        max_file_size=most_bytes,
        footer_links=[],
        theme=THEME,
    )
    return found


def _describe(job: ServedJob) -> str:
    """What is known of a job, in a few lines."""
    lines = [f"**{job.title}**: {job.status}"]
    if job.status == "running" and job.stage:
        lines.append(f"{job.stage} {job.done} of {job.total}" if job.total else job.stage)
    told = job.as_dict()
    notes = job.warnings if job.status in ENDED else told["notes"]  # estimates are for those who wait
    lines += [f"- {note.replace(f'{job.folder}/', '')}" for note in notes]
    if told["error"]:
        lines.append(f"**{told['error']}** {told['hint'] or ''}")
    return "\n\n".join(lines)


def _words(error: LatentSyncError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
