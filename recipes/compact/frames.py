"""Puts frames of clips into one array of squares, for autoencoder.py to cut patches from.

    python -m recipes.compact.frames RAW_DIR FRAMES.npy

RAW_DIR is what sort_people.py wrote. Whom held_out.txt names is left out. Beside FRAMES.npy (n 256 256 3)
comes people.json, a pair for each frame: the kind of its source, and the person.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.media.read import read_frames

HELD_OUT = Path(__file__).with_name("held_out.txt")
SIDE_PX = 256
# Every n-th frame is kept, by kind of source: few of those of whom there is much.
EVERY = {"news": 8, "grid_s1": 25, "assorted": 5, "synthetic": 8, "real": 3, "made": 10}
MOST_FRAMES = 40_000
SHRUNK_SHARE = 0.6  # of the frames that are larger: averaged down before the square is cut


def held_out() -> set[str]:
    """The people that `held_out.txt` names."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    return {person for line in lines if not line.startswith("#") for person in line.split()}


def kind_of(clip: Path) -> str:
    """What `EVERY` calls the source of a clip, by the folders it really lies in."""
    folder = clip.resolve().parent
    return {"real": "real", "synthetic": "made"}.get(folder.parent.name, folder.name)


def square(picture_u8: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """A square (256 256 3) at a random place of a frame, which may be averaged down first."""
    height, width = picture_u8.shape[:2]
    least = SIDE_PX / min(height, width)
    zoom = least if least > 1 else 1.0
    if least < 1 and random.random() < SHRUNK_SHARE:
        zoom = random.uniform(least, 1)
    if zoom != 1:
        size = (max(SIDE_PX, round(width * zoom)), max(SIDE_PX, round(height * zoom)))
        how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        picture_u8 = np.asarray(cv2.resize(picture_u8, size, interpolation=how), np.uint8)
    top, left = (int(random.integers(side - SIDE_PX + 1)) for side in picture_u8.shape[:2])
    return picture_u8[top : top + SIDE_PX, left : left + SIDE_PX]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("frames", type=Path)
    arguments = parser.parse_args()
    random, people = np.random.default_rng(1247), []
    without = held_out()
    array = np.lib.format.open_memmap(arguments.frames, "w+", np.uint8, (MOST_FRAMES, SIDE_PX, SIDE_PX, 3))
    for folder in sorted(arguments.raw.iterdir()):
        for clip in sorted(folder.rglob("*.mp4")) if folder.name not in without else []:
            kind = kind_of(clip)
            for number, frame in enumerate(read_frames(clip)):
                if number % EVERY[kind] == 0 and len(people) < MOST_FRAMES:
                    array[len(people)] = square(frame.rgb_u8, random)
                    people.append((kind, folder.name))
    array.flush()
    arguments.frames.with_name("people.json").write_text(json.dumps(people), encoding="utf-8")
    print(f"{len(people)} frames of {len({person for _, person in people})} people in {arguments.frames}")


if __name__ == "__main__":
    main()
