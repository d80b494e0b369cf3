"""Turns stored frames the way they are meant to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame

from latentsync.types import FrameImage

DisplayMatrix = tuple[int, int, int, int]  # a, b, c, d


def display_matrix(frame: VideoFrame) -> DisplayMatrix | None:
    """The frame's display matrix, None where it has none. Reading it keeps the frame alive for a while."""
    side_data = cast(Mapping[str, Buffer], frame.side_data)
    if "DISPLAYMATRIX" not in side_data:
        return None
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    return a, b, c, d


def turn_upright(stored_u8: FrameImage, matrix: DisplayMatrix) -> FrameImage:
    """Apply the display matrix to a picture (h w c): quarter turns and mirrors.

    Source: ITU-T H.264 / ISO 14496-12 `tkhd` matrix, row vectors: (x', y') = (a·x + c·y, b·x + d·y).
    """
    a, b, c, d = matrix
    if abs(a) < abs(b):
        stored_u8, a, d = stored_u8.swapaxes(0, 1), c, b  # w h c
    if a < 0:
        stored_u8 = stored_u8[:, ::-1]
    if d < 0:
        stored_u8 = stored_u8[::-1]
    return np.ascontiguousarray(stored_u8)
