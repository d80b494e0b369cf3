"""The face detector."""

from __future__ import annotations

import numpy as np
import skimage.data

from latentsync.faces.detect import Detector


def test_a_large_picture_gives_boxes_in_its_own_pixels() -> None:
    large = np.repeat(np.repeat(skimage.data.astronaut(), 2, 0), 2, 1)
    (face,) = Detector().detect(large)
    left, top, right, bottom = face.box
    assert left < 2 * 203 < 2 * 247 < right and top < 2 * 103 < bottom
    assert face.points.shape == (5, 2) and face.score > 0.9


def test_a_picture_too_small_for_a_face_has_none() -> None:
    assert Detector().detect(np.zeros((9, 9, 3), np.uint8)) == []
