"""Whether a person keeps the own mouth when another one walks past, in front or behind.

    python benchmarks/reliability/crossings.py CLIP CLIP... [--pairs 12] [--seed 1] [--json FILE]

CLIPs show one head each, about 256 px wide. Two of them, cut out softly, change sides in 3 s on a plain
background; the one that starts on the left is followed (`--face left`), once in front and once behind.
Where both faces really are is known, so that each frame counts as: right, wrong (the other person), none
(left alone), or hidden (the mouth of a face that is mostly covered would be painted over the other one).
Nothing is written but numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances

from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.follow import Follower, FollowSettings
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.track import track
from latentsync.media.read import read_frames
from latentsync.types import Frame, FrameImage

RESULTS = Path(__file__).parents[1] / "results" / "crossings.json"
WIDTH, HEIGHT, FRAMES, FPS = 640, 360, 75, 25
FACE_PX = 110  # extent of the 68 points in the made video
HEAD = (0.85, 1.25)  # half axes of what is cut out, in extents: with hair and some neck
SAME, COVERED = 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Head:
    """A clip: its pictures at the size of the made video, the 68 points in each, and the soft cut-out."""

    pictures: list[FrameImage]
    points: list[NDArray[np.float32]]
    mask: NDArray[np.float32]

    @property
    def middle(self) -> NDArray[np.float32]:
        return np.asarray(self.points[0].mean(0), np.float32)


def load_head(clip: Path, detector: Detector, landmarker: Landmarker) -> Head | None:
    """The head of a clip; None unless its face is found in every frame."""
    follower = Follower(FaceChoice(), detector, landmarker, FollowSettings())
    sights = [follower.see(frame) for frame in islice(read_frames(clip), FRAMES)]
    found = [sight.points for sight in sights]
    if len(found) < 30 or any(points is None for points in found):
        return None
    points = [each for each in found if each is not None]
    zoom = FACE_PX / float(np.ptp(points[0], axis=0).max())
    pictures = [
        cv2.resize(s.frame.rgb_u8, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) for s in sights
    ]
    points = [((each + 0.5) * zoom - 0.5).astype(np.float32) for each in points]
    mask = np.zeros(pictures[0].shape[:2], np.float32)
    centre = points[0].mean(0) - [0, 0.2 * FACE_PX]
    axes = [round(half * FACE_PX) for half in HEAD]
    cv2.ellipse(mask, np.rint(centre).astype(int).tolist(), axes, 0, 0, 360, 1.0, -1)
    mask[:, [0, -1]] = mask[[0, -1]] = 0
    return Head([np.asarray(p, np.uint8) for p in pictures], points, cv2.GaussianBlur(mask, (0, 0), 3))


def to_and_fro(length: int) -> Iterator[int]:
    return islice(cycle([*range(length), *range(length - 2, 0, -1)]), FRAMES)


def place(
    canvas: NDArray[np.float32], head: Head, number: int, at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw a head with its middle at a position; returns how far it was moved."""
    shift = np.rint(at - head.middle)
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    picture = cv2.warpAffine(head.pictures[number].astype(np.float32), matrix, (WIDTH, HEIGHT))
    mask = cv2.warpAffine(head.mask, matrix, (WIDTH, HEIGHT))[..., None]
    canvas += mask * (picture - canvas)
    return np.asarray(shift)


def crossing(
    chosen: Head, other: Head, *, is_front: bool
) -> tuple[list[Frame], list[tuple[NDArray[np.float64], NDArray[np.float64], float]]]:
    """The frames, and for each the points of both people and how much of the chosen one is covered."""
    frames, truths = [], []
    background = np.full((HEIGHT, WIDTH, 3), (96, 104, 112), np.float32)
    numbers = zip(to_and_fro(len(chosen.pictures)), to_and_fro(len(other.pictures)), strict=True)
    for index, (own, others) in enumerate(numbers):
        across = index / (FRAMES - 1)
        here = np.array([150 + 340 * across, HEIGHT / 2 + 20])
        there = np.array([490 - 340 * across, HEIGHT / 2 + 5])
        canvas = background.copy()
        order = [(other, others, there), (chosen, own, here)]
        shifts = [place(canvas, *each) for each in (order if is_front else order[::-1])]
        mine, theirs = shifts[::-1] if is_front else shifts
        points, rival = chosen.points[own] + mine, other.points[others] + theirs
        spots = np.rint(points - theirs).astype(int)
        inside = [
            0 <= y < other.mask.shape[0] and 0 <= x < other.mask.shape[1] and other.mask[y, x] > 0.5
            for x, y in spots
        ]
        covered = 0.0 if is_front else float(np.mean(inside))
        frames.append(Frame(np.rint(canvas).astype(np.uint8), index, index / FPS))
        truths.append((points, rival, covered))
    return frames, truths


def away(points: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(points - truth, axis=1).mean()) / FACE_PX


def judge(chosen: Head, other: Head, networks: tuple[Detector, Landmarker], *, is_front: bool) -> str:
    """One letter per frame: right, wrong, hidden, or a point for none."""
    frames, truths = crossing(chosen, other, is_front=is_front)
    tracked_frames = track(
        iter(frames),
        choice=FaceChoice("left"),
        resolution=256,
        detector=networks[0],
        landmarker=networks[1],
    )
    letters = []
    for tracked, (points, rival, covered) in zip(tracked_frames, truths, strict=True):
        if tracked.face is None:
            letters.append(".")
        elif covered > COVERED:
            letters.append("h")
        else:
            mine, theirs = away(tracked.face.points, points), away(tracked.face.points, rival)
            letters.append("r" if mine < min(SAME, theirs) else "w")
    return "".join(letters)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print a letter for every frame")
    arguments = parser.parse_args()
    detector, landmarker = Detector(), choose_landmarker()
    clips = sorted(arguments.clips)
    random.Random(arguments.seed).shuffle(clips)
    heads = (load_head(clip, detector, landmarker) for clip in clips)
    usable = islice((head for head in heads if head is not None), 2 * arguments.pairs)
    result: dict[str, Any] = {"circumstances": circumstances(), "frames_each": FRAMES}
    totals: dict[str, Counter[str]] = {"in front": Counter(), "behind": Counter()}
    ends: Counter[str] = Counter()
    for number, (chosen, other) in enumerate(zip(usable, usable, strict=False)):
        for name, is_front in (("in front", True), ("behind", False)):
            letters = judge(chosen, other, (detector, landmarker), is_front=is_front)
            totals[name].update(letters)
            ends[letters[-1]] += 1
            if arguments.show:
                print(f"{number:2d} {name:8s} {letters}", flush=True)
    words = {"r": "right", "w": "wrong", "h": "hidden", ".": "none"}
    for name, counts in totals.items():
        result[name] = {word: round(counts[letter] / counts.total(), 4) for letter, word in words.items()}
    result["last_frame"] = {word: ends[letter] for letter, word in words.items()}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
