"""What `--report` writes: everything needed to know, judge and repeat what was done, as JSON or as a page."""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from latentsync import __version__
from latentsync.errors import LatentSyncError, MediaError
from latentsync.events import Progress, Report
from latentsync.faces.align import align
from latentsync.faces.follow import FollowSettings
from latentsync.faces.track import TrackSettings, track
from latentsync.files import whole_or_nothing
from latentsync.media.read import read_frames
from latentsync.metrics.sync import choose_judge, score_sync
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.sync.job import SyncResult
from latentsync.sync.plan import Setup, why_untouched
from latentsync.types import Frame, FrameImage

JUDGED_S = 10.0  # of the result: more would not change the score much
JUDGED_PX = 128
THUMBNAILS, THUMBNAIL_PX = 8, 320
_LIBRARIES = ("torch", "diffusers", "transformers", "av", "opencv-python")
_PAGE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class _Thumbnail:
    """A frame of the result for the page."""

    time_s: float
    source: str  # a data: address


def write_report(path: Path, setup: Setup, result: SyncResult, report: Report) -> None:
    """Look at the finished result once more, and write the report about it.

    Raises:
        MediaError: it cannot be written.
    """
    facts = _facts(setup, result, report)
    if path.suffix.lower() == ".html":
        text = _page(facts, list(_thumbnails(setup, result, report)))
    else:
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    try:
        with whole_or_nothing(path) as part:  # bytes of a name that are not UTF-8 are escaped
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise MediaError(
            f"'{path}': cannot be written ({error.strerror})", hint="choose another --report"
        ) from error


def _facts(setup: Setup, result: SyncResult, report: Report) -> dict[str, Any]:
    job = setup.job
    return {
        "latentsync": __version__,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "device_name": _device_name(setup.device),
        "dtype": str(setup.dtype).split(".")[-1],
        "video": str(job.video),
        "speech": [str(path) for path in job.inputs[1:]] if job.cast else str(job.speech),
        **result.as_dict(),
        "untouched": [
            {"from_s": start_s, "to_s": end_s, "why": why}
            for why, spans in (
                (why_untouched(setup), result.untouched),
                ("mouth covered", result.covered),
                ("face turned away", result.turned),
            )
            for start_s, end_s in spans
        ],
        "sync": _sync_of(setup, result, report),
        "stages": {
            stage: {name: round(seconds, 3) for name, seconds in asdict(spent).items()}
            for stage, spent in result.stages.items()
        },
        "recipe": setup.recipe.model_dump(mode="json"),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _sync_of(setup: Setup, result: SyncResult, report: Report) -> dict[str, Any]:
    """How well the lips of the result fit the speech, in the first run of frames with a face.

    Of a cast, those of the first person.
    """
    setup = setup.people[0] if setup.people else setup
    report(Progress("judging", 0, None))
    samples = setup.speech.samples
    try:
        first_s, crops_u8 = _crops_of_result(setup, result)
        speech = samples[round(first_s * AUDIO_HZ) :][: round(len(crops_u8) / VIDEO_FPS * AUDIO_HZ)]
        score = score_sync(choose_judge("auto", device=setup.device), crops_u8, speech)
    except LatentSyncError as error:
        return {"missing": str(error)}
    return {
        "confidence": round(score.confidence, 4),
        "distance": round(score.distance, 4),
        "offset_frames": score.offset_frames,
        "judge": score.judge,
        "from_s": round(first_s, 2),
        "to_s": round(first_s + len(crops_u8) / VIDEO_FPS, 2),
    }


def _crops_of_result(setup: Setup, result: SyncResult) -> tuple[float, FrameImage]:
    """Aligned crops (f h w c) at 25 fps from the first frames with a face on, and when those begin."""
    tracked_frames = track(
        _result_frames(setup, result),
        choice=setup.job.face,
        resolution=JUDGED_PX,
        detector=setup.detector,
        landmarker=setup.landmarker,
        settings=TrackSettings(follow=FollowSettings(check_every_frames=VIDEO_FPS)),
    )
    crops: list[FrameImage] = []
    first_s = 0.0
    for tracked in tracked_frames:
        if tracked.affine is None:
            if crops:
                break
            continue
        first_s = first_s if crops else tracked.frame.time_s
        due = int((tracked.frame.time_s - first_s) * VIDEO_FPS + 0.5) + 1
        crops += [align(tracked.frame.rgb_u8, tracked.affine)] * (due - len(crops))
        if len(crops) >= JUDGED_S * VIDEO_FPS:
            break
    if not crops:
        raise MediaError("no face in the result", hint="look at it")
    return first_s, np.stack(crops)


def _result_frames(setup: Setup, result: SyncResult) -> Iterator[Frame]:
    """The frames of the result, without the source beside them."""
    if result.output is None:
        return
    for frame in read_frames(result.output):
        image = frame.rgb_u8[:, frame.rgb_u8.shape[1] // 2 :] if setup.job.compare else frame.rgb_u8
        yield Frame(np.ascontiguousarray(image), frame.index, frame.time_s)


def _thumbnails(setup: Setup, result: SyncResult, report: Report) -> Iterator[_Thumbnail]:
    """Frames spread evenly over the result."""
    wanted = [round(number * (result.frames - 1) / max(1, THUMBNAILS - 1)) for number in range(THUMBNAILS)]
    for frame in _result_frames(setup, result):
        report(Progress("drawing", frame.index + 1, result.frames))
        if frame.index in wanted:
            height, width = frame.rgb_u8.shape[:2]
            size = (THUMBNAIL_PX, max(1, round(THUMBNAIL_PX * height / width)))
            small = cv2.resize(frame.rgb_u8, size, interpolation=cv2.INTER_AREA)
            _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            data = base64.b64encode(encoded.tobytes()).decode()
            yield _Thumbnail(frame.time_s, f"data:image/jpeg;base64,{data}")


def _page(facts: dict[str, Any], thumbnails: list[_Thumbnail]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_PAGE).render(facts=facts, thumbnails=thumbnails)
