"""Third step: follows one face through a shot and turns every frame into an aligned crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.faces.align import align, window_px
from latentsync.faces.detect import Detector, FaceFinder
from latentsync.faces.follow import EXTENT_PER_BOX_HEIGHT, FollowSettings
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.track import FaceChoice, TrackedFrame, TrackSettings, track
from latentsync.preprocess.step import Clip, Drop, Picture
from latentsync.recipe.preprocess import Aligning
from latentsync.types import AffineFrame, Face, Frame, FrameImage

_SAME_FACE = 0.6  # in face sides: a detection nearer to the middle of the face is the face itself


@dataclass
class AlignFace:
    """Turns the frames of a shot into crops. A frame is dropped from memory once it has a crop.

    A later step decides which crops are good enough.
    """

    aligning: Aligning
    with_boxes: bool = False
    name: str = "align_face"
    _detector: FaceFinder | None = field(default=None, init=False, repr=False)
    _landmarker: Landmarker | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        self._detector = Detector()
        self._landmarker = choose_landmarker()

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        resolution = self.aligning.resolution
        yield replace(clip, stream=None, pictures=self._pictures(clip), resolution=resolution)

    def _pictures(self, clip: Clip) -> Iterator[Picture]:
        if clip.stream is None or self._detector is None or self._landmarker is None:
            raise ValueError("there are no frames, or the step was not started")
        # One detector for both, so that a frame is never searched twice.
        detections = _Detections(self._detector, self.aligning.detect_every_frames)
        rows = track(
            detections.watch(clip.stream),
            choice=FaceChoice("largest"),
            resolution=self.aligning.resolution,
            detector=detections,
            landmarker=self._landmarker,
            settings=TrackSettings(
                smoothing=self.aligning.smoothing,
                sigma_s=self.aligning.smoothing_s,
                gap_frames=self.aligning.max_gap_frames,
                follow=FollowSettings(check_every_frames=self.aligning.detect_every_frames),
            ),
        )
        for row in rows:
            yield self._picture(row, detections.by_frame.pop(row.frame.index, None))

    def _picture(self, row: TrackedFrame, found: list[Face] | None) -> Picture:
        if row.face is None or row.affine is None:
            return Picture(None, None)
        return Picture(
            crop_u8=align(row.frame.rgb_u8, row.affine),
            points=row.face.points,
            box_u8=align(row.frame.rgb_u8, _not_turned(row.affine)) if self.with_boxes else None,
            other_px=None if found is None else _largest_other_px(found, row.face.points),
        )


class _Detections:
    """A detector that also searches the whole of every n-th frame, and keeps what it found there.

    The tracker searches only around the face that it follows, so it would miss another one.
    """

    def __init__(self, detector: FaceFinder, every_frames: int) -> None:
        self.by_frame: dict[int, list[Face]] = {}
        self._detector = detector
        self._every_frames = every_frames
        self._last: tuple[FrameImage, list[Face]] | None = None

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            if number % self._every_frames == 0:
                self.by_frame[frame.index] = self.detect(frame.rgb_u8)
            yield frame
            self._last = None

    def detect(self, rgb_u8: FrameImage) -> list[Face]:
        # The tracker often asks about the frame that was just searched: one search serves both.
        if self._last is not None and self._last[0] is rgb_u8:
            return self._last[1]
        faces = self._detector.detect(rgb_u8)
        self._last = (rgb_u8, faces)
        return faces


def _largest_other_px(faces: list[Face], points: NDArray[np.float32]) -> float:
    """Side of the largest of `faces` that is not the one with these points, brows to chin; 0 without one."""
    low, high = points.min(0), points.max(0)
    side_px, middle = float((high - low).max()), (low + high) / 2
    others = [
        EXTENT_PER_BOX_HEIGHT * float((face.box[2:] - face.box[:2]).max())
        for face in faces
        if np.abs((face.box[:2] + face.box[2:]) / 2 - middle).max() > _SAME_FACE * side_px
    ]
    return max(others, default=0.0)


def _not_turned(affine: AffineFrame) -> AffineFrame:
    """The same crop, at the same position and scale, but upright in the frame, like a face box."""
    # A similarity scales areas by its determinant, so lengths by the root.
    zoom = float(np.sqrt(abs(np.linalg.det(affine.crop_from_frame[:, :2]))))
    width, height = window_px(affine.resolution)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    centre = cv2.invertAffineTransform(affine.crop_from_frame) @ [*middle, 1]
    upright = np.column_stack([zoom * np.eye(2), middle - zoom * centre])
    return AffineFrame(upright, affine.resolution)
