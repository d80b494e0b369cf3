"""A look before the whole run: a sheet that shows what was found, and the first seconds of the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from latentsync.errors import MediaError, UsageError
from latentsync.events import Note, Plan, Progress, Report
from latentsync.faces.align import affine_of, align, mouth_mask, square_from_window
from latentsync.faces.follow import FollowSettings, face_from
from latentsync.faces.track import TrackedFrame, follow
from latentsync.files import whole_or_nothing
from latentsync.media.read import read_frames
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.generate import CutFrame
from latentsync.sync.job import SyncJob
from latentsync.sync.occlusion import choose_marking
from latentsync.sync.plan import Setup, find_first_face, plan_lines, prepare, why_untouched
from latentsync.sync.run import render_start
from latentsync.sync.timeline import SquarePixels
from latentsync.types import Face, Frame, FrameImage

RESULT_S = 2.0
LOOKS, COLUMNS, TILE_PX, BAND_PX = 12, 4, 400, 26
GREEN, ORANGE, BLUE, RED, WHITE = (
    (80, 220, 90),
    (250, 160, 40),
    (70, 150, 255),
    (190, 40, 40),
    (255, 255, 255),
)


@dataclass(frozen=True, slots=True)
class Look:
    """One frame that was looked at.

    side_px      of its face; None: no face
    why          it is left as it is
    is_occluded  something in front of the mouth is kept
    """

    time_s: float
    side_px: int | None
    why: str = ""
    is_occluded: bool = False


@dataclass(frozen=True, slots=True)
class PreviewResult:
    """The files that were written, and what was seen in the frames looked at."""

    sheet: Path
    clip: Path
    clip_s: float
    looks: tuple[Look, ...]

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return {
            "sheet": str(self.sheet),
            "clip": str(self.clip),
            "clip_s": round(self.clip_s, 3),
            "looks": [
                {
                    "time_s": round(look.time_s, 3),
                    "face_px": look.side_px,
                    "why": look.why,
                    "occluded": look.is_occluded,
                }
                for look in self.looks
            ],
        }


def preview(job: SyncJob, recipe: SyncRecipe, report: Report) -> PreviewResult:
    """Write a sheet of frames with box, landmarks and mask, and the first seconds of the result.

    They are called after the output: NAME_preview.jpg and NAME_preview.mp4.

    Raises:
        LatentSyncError: as `run`.
    """
    if job.output is None:
        raise UsageError("a preview needs the name of the output", hint="name it with -o")
    clip = job.output.with_name(f"{job.output.stem}_preview{job.output.suffix}")
    sheet = job.output.with_name(f"{job.output.stem}_preview.jpg")
    if sheet.exists() and not job.force:
        raise UsageError(f"'{sheet}': exists already", hint="add --force to replace it, or name another")
    setup = prepare(replace(job, output=clip, report=None), recipe, None, report)
    find_first_face(setup, report)
    report(Plan(plan_lines(setup)))
    seen = list(_look(setup, report))
    _write_sheet(sheet, [tile for _, tile in seen])
    looks = tuple(look for look, _ in seen)
    for why, count in Counter(look.why for look in looks if look.why).items():
        report(Note(f"{why} in {count} of {len(looks)} frames looked at"))
    clip_s = render_start(setup, clip, RESULT_S, report)
    return PreviewResult(sheet, clip, clip_s, looks)


def _look(setup: Setup, report: Report) -> Iterator[tuple[Look, FrameImage]]:
    """Frames spread evenly over the part of the video that is used, with what was found in each."""
    pixels = SquarePixels(setup.info)
    settings = FollowSettings(check_every_frames=1)
    followers = [
        follow(pixels.choice(person.job.face), setup.detector, setup.landmarker, settings)
        for person in setup.people or (setup,)
    ]
    for number, frame in enumerate(_spread(setup)):
        report(Progress("looking", number + 1, None))
        square = pixels.square(frame)
        picture = square.rgb_u8.copy()
        sights = [follower.see(square) for follower in followers]
        cuts = [
            _cut(square, face_from(sight.points, sight.confidence), setup)
            for sight in sights
            if sight.points is not None
        ]
        side_px = max((_draw(picture, cut, setup) for cut in cuts), default=None)
        reasons: list[str] = [cut.why for cut in cuts] or [why_untouched(setup)]
        why = f"{reasons[0]}: left as it is" if all(reasons) else ""
        look = Look(frame.time_s, side_px, why, any(cut.visible is not None for cut in cuts))
        yield look, _tile(picture, look)


def _cut(frame: Frame, face: Face, setup: Setup) -> CutFrame:
    """The crop of a face, and what is in front of it."""
    affine = affine_of(face.points, setup.spec.resolution)
    cut = CutFrame(TrackedFrame(frame, face, affine), align(frame.rgb_u8, affine))
    mark = choose_marking(setup.occlusion, setup.recipe.paste.occlusion)
    return next(mark(iter([cut]))) if mark else cut


def _spread(setup: Setup) -> Iterator[Frame]:
    job, info = setup.job, setup.info
    end_s = min(info.duration_s, job.end_s or info.duration_s)
    looks = 1 if info.is_picture else LOOKS
    for number in range(looks):
        time_s = job.start_s + (end_s - job.start_s) * number / looks
        frame = next(iter(read_frames(job.video, start_s=time_s, track=job.video_track)), None)
        if frame is not None:
            yield Frame(frame.rgb_u8, number, time_s, source=round((time_s - job.start_s) * info.fps))


def _draw(picture: FrameImage, cut: CutFrame, setup: Setup) -> int:
    """Draw the box, the landmarks, the outline of what is generated, and what is kept of it, as red.

    Gives the side of the box.
    """
    face, affine = cut.tracked.face, cut.tracked.affine
    assert face is not None and affine is not None
    thick = max(1, round(picture.shape[1] / 500))
    left, top, right, bottom = (round(float(value)) for value in face.box)
    cv2.rectangle(picture, (left, top), (right, bottom), BLUE, thick)
    resolution = setup.spec.resolution
    window_from_frame = np.vstack([affine.crop_from_frame, [0, 0, 1]])
    frame_from_square = np.linalg.inv(square_from_window(resolution) @ window_from_frame)
    generated = (mouth_mask(resolution, setup.job.mask) < 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(generated, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if cut.visible is not None:
        kept = cv2.resize(1 - cut.visible, (resolution, resolution)) * generated
        size = (picture.shape[1], picture.shape[0])
        tint = 0.6 * cv2.warpAffine(kept, frame_from_square[:2], size)[..., None]
        picture[:] = picture * (1 - tint) + np.array(RED) * tint
    for outline in outlines:
        in_frame = cv2.perspectiveTransform(outline.astype(np.float64), frame_from_square)
        cv2.polylines(picture, [np.round(in_frame).astype(np.int32)], True, ORANGE, thick, cv2.LINE_AA)
    for x, y in face.points:
        cv2.circle(picture, (round(float(x)), round(float(y))), thick + 1, GREEN, -1, cv2.LINE_AA)
    return max(right - left, bottom - top)


def _tile(picture: FrameImage, look: Look) -> FrameImage:
    height = round(TILE_PX * picture.shape[0] / picture.shape[1])
    tile = np.zeros((height + BAND_PX, TILE_PX, 3), np.uint8)
    tile[:height] = cv2.resize(picture, (TILE_PX, height), interpolation=cv2.INTER_AREA)
    if look.why:
        tile[height:] = RED
    kept = ", something in front of it kept" if look.is_occluded else ""
    text = f"{look.time_s:.2f} s   {look.why or f'face {look.side_px} px{kept}'}"
    at = (8, height + BAND_PX - 8)
    cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return tile


def _write_sheet(path: Path, tiles: Sequence[FrameImage]) -> None:
    columns = min(COLUMNS, len(tiles))
    filled = [*tiles, *([np.zeros_like(tiles[0])] * (-len(tiles) % columns))]
    rows = [np.hstack(filled[first : first + columns]) for first in range(0, len(filled), columns)]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    try:
        with whole_or_nothing(path) as part:
            part.write_bytes(encoded.tobytes())
    except OSError as error:
        raise MediaError(
            f"'{path}': cannot be written ({error.strerror})", hint="choose another folder with -o"
        ) from error
