"""The landmark network of the paper, through the package face-alignment, where its weights are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.faces.landmarks import POINTS, SQUARE_PER_EXTENT, Square
from latentsync.types import FrameImage

NETWORK = "2DFAN-4"
LIKELY = 0.4  # mean height of the heat maps' peaks on a face; ours, far below it means no face


def fan_weights() -> Path | None:
    """The weights file that face-alignment would load, if the package and the file are there."""
    if importlib.util.find_spec("face_alignment") is None:
        return None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob("2DFAN4-*")):
        return None
    from face_alignment.api import models_urls

    path = folder / models_urls[NETWORK].rsplit("/", 1)[-1]
    return path if path.is_file() else None


class FaceAlignmentLandmarker:
    """68 points by face-alignment, about 0.3 s a face on a CPU; no detector is loaded."""

    def __init__(self, *, device: str = "cpu") -> None:
        import face_alignment

        self._net: Any = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D,
            device=device,
            compile=False,  # compiling takes over a minute
            flip_input=False,
            face_detector="folder",  # boxes are given to it, so S3FD need not be there
        )

    def points(self, rgb_u8: FrameImage, square: Square) -> tuple[NDArray[np.float32], float]:
        """The 68 points (68, 2) in pixels of the frame, and the confidence 0..1 that this is a face."""
        centre_x, centre_y, side = square
        reach = side / SQUARE_PER_EXTENT / 2
        box = [centre_x - reach, centre_y - reach, centre_x + reach, centre_y + reach, 1.0]
        found, scores, _ = self._net.get_landmarks_from_image(
            rgb_u8, detected_faces=[np.array(box)], return_landmark_score=True
        )
        if not found:
            return np.full((POINTS, 2), (centre_x, centre_y), np.float32), 0.0
        likely = float(np.mean(scores[0])) / (2 * LIKELY)
        return np.asarray(found[0][:, :2], np.float32), min(1.0, likely)
