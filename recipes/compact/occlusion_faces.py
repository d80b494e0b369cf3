"""Puts faces of processed clips, with landmarks, into one file for the training of the occlusion network.

    python -m recipes.compact.occlusion_faces PROCESSED_DIR FRAMES.npy DATA_DIR

FRAMES.npy is of frames.py. Writes DATA_DIR/faces.npz: faces_u8 (n 128 128 3), points (n 68 2) in its pixels,
people (n,), and things_u8 (n 128 128 3), squares of frames for textures. Beside it the training expects
hands.npz of cut_hands.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from latentsync.errors import MediaError
from latentsync.faces.landmarks import choose_landmarker
from latentsync.manifest import read_manifest
from latentsync.media.read import read_frames

SIDE_PX = 128
EVERY_FRAMES = 9
THINGS = 3000
LEAST_CONFIDENCE = 0.5


def things(frames: Path) -> np.ndarray:
    """Squares (n 128 128 3) of frames, spread evenly over those there are."""
    squares = np.load(frames, mmap_mode="r")
    count = len(json.loads(frames.with_name("people.json").read_text(encoding="utf-8")))
    chosen = np.linspace(0, count - 1, min(THINGS, count)).round().astype(int)
    size = (SIDE_PX, SIDE_PX)
    return np.array([cv2.resize(squares[number], size, interpolation=cv2.INTER_AREA) for number in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("processed", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    landmarker = choose_landmarker()
    faces, points, people = [], [], []
    for clip in read_manifest(arguments.processed):
        for frame in read_frames(clip.path):
            if frame.index % EVERY_FRAMES:
                continue
            side = len(frame.rgb_u8)
            found, confidence = landmarker.points(frame.rgb_u8, (side / 2, side / 2, 1.1 * side))
            if confidence >= LEAST_CONFIDENCE:
                faces.append(cv2.resize(frame.rgb_u8, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
                points.append((found + 0.5) * SIDE_PX / side - 0.5)
                people.append(clip.person)
    if not faces:
        raise MediaError(
            f"'{arguments.processed}': no face in its clips", hint="run latentsync preprocess first"
        )
    arguments.data.mkdir(parents=True, exist_ok=True)
    np.savez(
        arguments.data / "faces.npz",
        faces_u8=np.array(faces),
        points=np.array(points),
        people=np.array(people),
        things_u8=things(arguments.frames),
    )
    print(f"{len(faces)} faces of {len(set(people))} people in {arguments.data / 'faces.npz'}")


if __name__ == "__main__":
    main()
