"""How often faces are found, how far the control points lie from a teacher's, and how steady the crops are.

    python benchmarks/faces.py TEACHER_DIR VIDEO... [--json results.json]

TEACHER_DIR holds NAME.npz for each video NAME.*, with `points` (f, 468, 2): the points of MediaPipe's face
mesh in pixels of each frame, NaN where it saw no face. Errors are in percent of the distance between the
teacher's eye centres. Jitter is the second difference over time of the crop's centre and corners in the
frame, as a ratio to that of crops fitted to each frame alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.faces.align import control_points, fit_similarity, window_px
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import choose_landmarker
from latentsync.faces.track import TrackedFrame, track
from latentsync.media.read import read_frames

RESOLUTION = 256
MESH_CONTROL = ((70, 63, 105, 66, 107), (336, 296, 334, 293, 300), (168, 197, 195, 4, 98, 97, 2, 326, 327))
MESH_EYES = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380))
COLUMNS = ("frames", "found_percent", "error_median", "error_p95", "jitter_ratio", "ms_per_frame")


def corners(crop_from_frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre and corners of the crop in pixels of the frame, (5, 2)."""
    width, height = window_px(RESOLUTION)
    points = np.array([[width / 2, height / 2], [0, 0], [width, 0], [0, height], [width, height]])
    return np.asarray(np.column_stack([points, np.ones(5)]) @ cv2.invertAffineTransform(crop_from_frame).T)


def jitter_px(transforms: list[NDArray[np.float64] | None]) -> float:
    """Root mean square second difference over runs of three frames that all have a crop."""
    points = [None if one is None else corners(one) for one in transforms]
    squares = [
        ((after - 2 * now + before) ** 2).sum(1).mean()
        for before, now, after in zip(points, points[1:], points[2:], strict=False)
        if before is not None and now is not None and after is not None
    ]
    return float(np.sqrt(np.mean(squares))) if squares else float("nan")


def measure(video: Path, teacher: Path) -> tuple[dict[str, float], NDArray[np.float64]]:
    """One row of the table, and the errors (f, 3) behind it."""
    mesh = np.load(teacher)["points"]
    started = time.process_time()
    tracked: list[TrackedFrame] = []
    for row in track(
        read_frames(video),
        choice=FaceChoice(),
        resolution=RESOLUTION,
        detector=Detector(),
        landmarker=choose_landmarker(),
    ):
        tracked.append(TrackedFrame(None, row.face, row.affine, row.is_interpolated))  # type: ignore[arg-type]
    spent_ms = 1000 * (time.process_time() - started) / max(1, len(tracked))
    errors = []
    for row, points in zip(tracked, mesh, strict=False):
        if row.face is None or np.isnan(points).any():
            continue
        wanted = np.stack([points[list(group)].mean(0) for group in MESH_CONTROL])
        left, right = (points[list(group)].mean(0) for group in MESH_EYES)
        distance = np.linalg.norm(control_points(row.face.points) - wanted, axis=1)
        errors.append(100 * distance / np.linalg.norm(left - right))
    alone = [
        None if row.face is None else fit_similarity(control_points(row.face.points), RESOLUTION)
        for row in tracked
    ]
    steady = [row.affine.crop_from_frame if row.affine else None for row in tracked]
    numbers = {
        "frames": len(tracked),
        "found_percent": 100 * sum(row.face is not None for row in tracked) / max(1, len(tracked)),
        "error_median": float(np.median(errors)) if errors else float("nan"),
        "error_p95": float(np.percentile(errors, 95)) if errors else float("nan"),
        "jitter_ratio": jitter_px(steady) / jitter_px(alone),
        "ms_per_frame": spent_ms,
    }
    return numbers, np.array(errors).reshape(-1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher_dir", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{'video':28}" + "".join(f"{name:>15}" for name in COLUMNS))
    rows, errors = {}, []
    for video in arguments.videos:
        row, distances = measure(video, arguments.teacher_dir / f"{video.stem}.npz")
        rows[video.stem] = row
        errors.append(distances)
        print(f"{video.stem:28}" + "".join(f"{row[name]:15.2f}" for name in COLUMNS), flush=True)
    pooled = np.concatenate(errors)
    print(f"all: error_median {np.median(pooled):.2f}, error_p95 {np.percentile(pooled, 95):.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
