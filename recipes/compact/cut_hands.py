"""Cuts hands out of raw videos, for occlusion.py to put before faces.

Runs in an environment of its own, because the teacher is no dependency of this project:

    python -m venv teacher
    teacher/bin/pip install "numpy<2" av "opencv-python-headless<4.11" "protobuf<5"
    teacher/bin/pip install absl-py attrs flatbuffers matplotlib
    teacher/bin/pip install --no-deps mediapipe==0.10.14         # for its hand landmarks (Apache-2.0)
    teacher/bin/python recipes/compact/cut_hands.py RAW_DIR HANDS.npz

RAW_DIR is what sort_people.py wrote; whom held_out.txt names is left out. HANDS.npz has rgba_u8 (n 96 96 4):
the hand, its alpha found by GrabCut around MediaPipe's 21 points; and people (n,).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import mediapipe
import numpy as np

HELD_OUT = Path(__file__).with_name("held_out.txt")
SIDE_PX = 96
EVERY_FRAMES = 13
LEAST_PX = 45  # of the hand in the frame: smaller ones are too blurred
LEAST_SCORE = 0.7
MOST_FILLED = 0.97  # of where the alpha was looked for: the colours do not tell the hand from the rest
BLACK_LEVEL, MOST_BLACK = 12, 0.04  # a hand with more than this share of black leaves the frame
MARGIN = 0.3  # around the points, in sides of their box
FINGERS = ((0, 1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
PALM = (0, 1, 2, 5, 9, 13, 17)


def cut(rgb_u8: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """The hand with these 21 points (21 2) as (96 96 4), or None where it cannot be told from the rest."""
    low, high = points.min(0), points.max(0)
    side = float((high - low).max())
    if side < LEAST_PX:
        return None
    reach = side * (0.5 + MARGIN)
    zoom = SIDE_PX / (2 * reach)
    matrix = np.array([[zoom, 0, -zoom * ((low + high)[0] / 2 - reach)],
                       [0, zoom, -zoom * ((low + high)[1] / 2 - reach)]])  # fmt: skip
    picture = cv2.warpAffine(
        rgb_u8, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    )
    here = np.rint(points @ matrix[:, :2].T + matrix[:, 2]).astype(np.int32)
    inner = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    thick = max(2, round(0.045 * SIDE_PX))
    for finger in FINGERS:
        cv2.polylines(inner, [here[list(finger)]], False, 255, thick)
    cv2.fillPoly(inner, [cv2.convexHull(here[list(PALM)])], 255)
    outer = cv2.dilate(inner, np.ones((11, 11), np.uint8))
    labels = np.full((SIDE_PX, SIDE_PX), cv2.GC_BGD, np.uint8)
    labels[outer > 0] = cv2.GC_PR_FGD
    labels[inner > 0] = cv2.GC_FGD
    cv2.grabCut(picture, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    alpha = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8) * 255
    filled = (alpha > 0).sum() / max(1, (outer > 0).sum())
    black = (picture[alpha > 0].max(1) < BLACK_LEVEL).mean()
    if (
        filled > 0.97 or black > MOST_BLACK
    ):  # its colours do not tell it from the rest; or it leaves the frame
        return None
    return np.dstack([picture, cv2.GaussianBlur(alpha, (0, 0), 0.7)])


def frames(clip: Path) -> Iterator[np.ndarray]:
    with av.open(str(clip)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number % EVERY_FRAMES == 3:
                yield frame.to_ndarray(format="rgb24")


def hands_in(rgb_u8: np.ndarray, finder: mediapipe.solutions.hands.Hands) -> Iterator[np.ndarray]:
    """The points (21 2), in pixels, of each hand."""
    found = finder.process(rgb_u8)
    hands, sides = found.multi_hand_landmarks or [], found.multi_handedness or []
    for hand, side in zip(hands, sides, strict=True):
        if side.classification[0].score > LEAST_SCORE:
            yield np.array([(point.x, point.y) for point in hand.landmark]) * rgb_u8.shape[1::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("hands", type=Path)
    arguments = parser.parse_args()
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    without = {person for line in lines if not line.startswith("#") for person in line.split()}
    finder = mediapipe.solutions.hands.Hands(
        static_image_mode=True, max_num_hands=2, min_detection_confidence=0.6
    )
    hands, people = [], []
    for folder in sorted(arguments.raw.iterdir()):
        for clip in sorted(folder.rglob("*.mp4")) if folder.name not in without else []:
            for rgb_u8 in frames(clip):
                for points in hands_in(rgb_u8, finder):
                    hand = cut(rgb_u8, points)
                    if hand is not None:
                        hands.append(hand)
                        people.append(folder.name)
    np.savez_compressed(arguments.hands, rgba_u8=np.array(hands), people=np.array(people))
    print(f"{len(hands)} hands of {len(set(people))} people in {arguments.hands}")


if __name__ == "__main__":
    main()
