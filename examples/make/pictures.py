"""Makes the pictures of the README from a result of our own example.

    latentsync sync examples/portrait.mp4 examples/speech.wav -o compare.mp4 --compare
    python examples/make/pictures.py compare.mp4

It writes docs/pictures/before-after.jpg, source above result at five moments, and docs/pictures/example.webp,
which moves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from latentsync.media.read import read_frames

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MOMENTS_S = (0.4, 0.72, 1.04, 1.36, 1.68)
SIDE_PX, MOVING_PX = 200, 256
FACE = slice(60, 420)  # rows and columns of the portrait that are shown
FIRST_S, LAST_S, EVERY_FRAMES = 0.3, 3.3, 2  # of the animation, at 25 fps


def halves(rgb_u8: np.ndarray, side_px: int) -> list[np.ndarray]:
    """The face in the source and in the result."""
    return [
        np.asarray(cv2.resize(half[FACE, FACE], (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)
        for half in np.split(rgb_u8, 2, axis=1)
    ]


def main() -> None:
    columns, moving = [], []
    moments = list(MOMENTS_S)
    for frame in read_frames(Path(sys.argv[1])):
        if moments and frame.time_s >= moments[0] - 0.01:
            moments.pop(0)
            columns.append(np.vstack(halves(frame.rgb_u8, SIDE_PX)))
        if FIRST_S <= frame.time_s < LAST_S and frame.index % EVERY_FRAMES == 0:
            moving.append(Image.fromarray(np.hstack(halves(frame.rgb_u8, MOVING_PX))))
    Image.fromarray(np.hstack(columns)).save(PICTURES / "before-after.jpg", quality=85)
    moving[0].save(
        PICTURES / "example.webp",
        save_all=True,
        append_images=moving[1:],
        duration=EVERY_FRAMES * 40,
        loop=0,
        quality=70,
        method=6,
    )
    for name in ("before-after.jpg", "example.webp"):
        print(PICTURES / name, (PICTURES / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
