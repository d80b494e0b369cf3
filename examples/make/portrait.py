"""Make `examples/portrait.mp4`: a still portrait that gently sways, zooms and tilts.

    python examples/make/portrait.py

The picture is NASA's portrait of Eileen Collins, in the public domain, as scikit-image ships it
(`data.astronaut()`). The motion is made of slow sines whose periods
divide the clip, so that it loops without a jump.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

SIDE_PX = 480
FPS = 25
FRAMES = 100
VIEW_PX = 236.0  # side of the square of the picture that fills the frame
CENTRE_PX = (226.0, 130.0)  # its middle, near the mouth
SWAY_PX = (5.0, 3.0)
TILT_DEGREES = 2.0
ZOOM = 0.025


def frame_from_picture(frame: int) -> NDArray[np.float64]:
    """The (2, 3) transform from pixels of the picture to pixels of video frame `frame`."""
    turn = 2 * math.pi * frame / FRAMES
    scale = SIDE_PX / VIEW_PX * (1 + ZOOM * math.sin(turn))
    centre = (CENTRE_PX[0] + SWAY_PX[0] * math.sin(turn), CENTRE_PX[1] + SWAY_PX[1] * math.sin(2 * turn))
    matrix = cv2.getRotationMatrix2D(centre, TILT_DEGREES * math.sin(turn + 1), scale)
    matrix[:, 2] += SIDE_PX / 2 - np.array(centre)
    return np.asarray(matrix, dtype=np.float64)


def main() -> None:
    """Write the video next to this folder."""
    target = Path(__file__).resolve().parent.parent / "portrait.mp4"
    picture = data.astronaut()  # h w c
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "slow"})
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for frame in range(FRAMES):
            rgb_u8 = cv2.warpAffine(
                picture,
                frame_from_picture(frame),
                (SIDE_PX, SIDE_PX),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb_u8, format="rgb24")))
        container.mux(stream.encode())
    print(target)


if __name__ == "__main__":
    main()
