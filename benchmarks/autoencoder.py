"""How well an autoencoder keeps mouths of people that it was not trained on: PSNR, lip and tooth colours.

    python -m benchmarks.autoencoder CROPS.npz [--autoencoder FILE | --teacher DIR] [--sheet FILE.png]
    python -m benchmarks.autoencoder CROPS.npz --make CLIP...

The second form cuts the crops: of each clip the frame with the widest open mouth but one in twenty, and one
of middling opening, as aligned faces of 256 px (n h w c) with their 68 points. They are measured twice: the
whole face at 128 px, and the window of 128 px around mouth and chin. `chroma` is the mean CIE chroma of the
lips over that of the real ones; `bright` the number of pixels between the lips that are as bright as teeth,
over the real number. All are means over crops. Sheets show people: keep them outside the repository.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from processes import circumstances
from torch import Tensor

from latentsync.faces.align import align, square_from_window
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import load_landmarks
from latentsync.faces.track import FaceChoice, track
from latentsync.media.read import read_frames
from latentsync.models.autoencoder import build_tiny_autoencoder
from latentsync.recipe.networks import TinyAutoencoderConfig
from latentsync.train.losses import mouth_region
from latentsync.weights.checkpoints import load_checkpoint

RESULTS = Path(__file__).parent / "results" / "autoencoder.json"
FACE_PX, SIDE_PX = 256, 128
WINDOW_TOP, WINDOW_LEFT = 116, 64  # of the window in the aligned face of 256 px
TOOTH_LIGHTNESS = 55.0  # CIE L above which a pixel between the lips counts as a tooth
OUTER, INNER = slice(48, 60), slice(60, 68)  # of the 68 points: the lips' outer and inner outlines
Crops = NDArray[np.uint8]  # (n h w c)
Points = NDArray[np.floating]  # (n 68 2)
Rebuild = Callable[[Crops], Crops]


def make_crops(clips: list[Path]) -> dict[str, NDArray[Any]]:
    """Two crops (n 256 256 3) of each clip, their points (n 68 2) and the clips' names."""
    crops, points, names = [], [], []
    detector, landmarker = Detector(), load_landmarks()
    for path in clips:
        rows = []
        for row in track(
            iter(read_frames(path, end_s=3.0)),
            choice=FaceChoice("largest"),
            resolution=FACE_PX,
            detector=detector,
            landmarker=landmarker,
        ):
            if row.face is None or row.affine is None:
                continue
            own = row.face.points
            opening = np.linalg.norm(own[66] - own[62]) / np.linalg.norm(own[36] - own[45])
            square = square_from_window(FACE_PX) @ np.vstack([row.affine.crop_from_frame, [0, 0, 1]])
            rows.append(
                (opening, align(row.frame.rgb_u8, row.affine), np.c_[own, np.ones(68)] @ square[:2].T)
            )
        order = np.argsort([row[0] for row in rows])
        for index in (order[-max(1, len(order) // 20)], order[len(order) // 2]):
            crops.append(rows[index][1])
            points.append(rows[index][2])
            names.append(path.stem)
    return {"crops_u8": np.stack(crops), "points": np.stack(points), "names": np.array(names)}


def views(faces_u8: Crops, points: Points) -> dict[str, tuple[Crops, Points]]:
    """The faces at 128 px and the windows, each with the points in its pixels."""
    small = np.stack(
        [cv2.resize(face, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for face in faces_u8]
    )
    rows, columns = (slice(start, start + SIDE_PX) for start in (WINDOW_TOP, WINDOW_LEFT))
    corner = np.array([WINDOW_LEFT, WINDOW_TOP])
    return {
        "face": (small.astype(np.uint8), points * SIDE_PX / FACE_PX),
        "window": (faces_u8[:, rows, columns], points - corner),
    }


def mouth_of(view: str) -> tuple[slice, slice]:
    """Rows and columns of the mouth in a view."""
    if view == "face":
        return mouth_region(SIDE_PX)
    rows, columns = mouth_region(FACE_PX)
    return (
        slice(rows.start - WINDOW_TOP, rows.stop - WINDOW_TOP),
        slice(columns.start - WINDOW_LEFT, columns.stop - WINDOW_LEFT),
    )


def measure(real_u8: Crops, made_u8: Crops, points: Points, view: str) -> dict[str, list[float]]:
    """PSNR of the mouth, chroma of the lips and tooth-bright pixels over real, by crop."""
    rows, columns = mouth_of(view)
    error = (real_u8[:, rows, columns].astype(float) - made_u8[:, rows, columns]) ** 2
    found: dict[str, list[float]] = {
        "psnr": (10 * np.log10(255**2 / error.mean((1, 2, 3)))).tolist(),
        "chroma": [],
        "bright": [],
    }
    for real, made, own in zip(real_u8, made_u8, points, strict=True):
        outline, inside = np.zeros((2, SIDE_PX, SIDE_PX), np.uint8)
        cv2.fillPoly(outline, [own[OUTER].round().astype(np.int32)], 1)
        cv2.fillPoly(inside, [own[INNER].round().astype(np.int32)], 1)
        lips, inner = (outline > 0) & (inside == 0), inside > 0
        labs = [cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for crop in (real, made)]
        chroma = [float(np.hypot(lab[lips][:, 1], lab[lips][:, 2]).mean()) for lab in labs]
        bright = [int((lab[inner][:, 0] > TOOTH_LIGHTNESS).sum()) for lab in labs]
        found["chroma"].append(chroma[1] / max(chroma[0], 1e-6))
        if bright[0] >= 12:
            found["bright"].append(bright[1] / bright[0])
    return found


def rebuilder(arguments: argparse.Namespace) -> Rebuild:
    """What encodes and decodes crops: ours, the bundled one, or the teacher."""
    if arguments.teacher:
        from recipes.compact.teacher import Teacher

        network: Any = Teacher(arguments.teacher)
    elif arguments.autoencoder:
        network = load_checkpoint(
            arguments.autoencoder,
            kind="autoencoder",
            config_type=TinyAutoencoderConfig,
            build=build_tiny_autoencoder,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
    else:
        from latentsync.weights.models import find_model, load_model

        network = load_model(find_model("compact"), device=torch.device("cpu"), dtype=torch.float32).vae
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32

    @torch.inference_mode()
    def rebuild(crops_u8: Crops) -> Crops:
        images: Tensor = torch.from_numpy(np.ascontiguousarray(crops_u8)).permute(0, 3, 1, 2) / 127.5 - 1
        images = images.contiguous(memory_format=torch.channels_last)
        made = []
        for image in images.split(1):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                made.append(network.decode(network.encode(image)).float())
        return np.asarray(((torch.cat(made).permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).round(), np.uint8)

    return rebuild


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--make", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--autoencoder", type=Path, help="weights; default: the bundled model's")
    parser.add_argument("--teacher", type=Path, help="folder with the teacher's files")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--eight", nargs="*", default=[], help="clips whose mean is given beside that of all")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path, help=f"add the numbers to this file, such as {RESULTS.name}")
    parser.add_argument("--name", default="compact")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.make:
        np.savez(arguments.crops, **make_crops(arguments.make))
        return
    with np.load(arguments.crops) as kept:
        faces_u8, points, names = kept["crops_u8"], kept["points"], kept["names"]
    rebuild, chosen = rebuilder(arguments), np.isin(names, arguments.eight)
    found: dict[str, Any] = {"crops": len(names), "people": len(set(names.tolist()))}
    for view, (real_u8, own) in views(faces_u8, points).items():
        begun = time.process_time()
        made_u8 = rebuild(real_u8)
        spent_ms = 1000 * (time.process_time() - begun) / len(real_u8)
        scores = measure(real_u8, made_u8, own, view)
        found[view] = {name: round(float(np.mean(each)), 3) for name, each in scores.items()}
        found[view]["ms"] = round(spent_ms, 1)
        if chosen.any():
            found[view]["psnr_eight"] = round(float(np.mean(np.array(scores["psnr"])[chosen])), 2)
            found[view]["chroma_eight"] = round(float(np.mean(np.array(scores["chroma"])[chosen])), 3)
        if arguments.sheet and view == "window":
            pairs = np.concatenate([real_u8, made_u8], 1)[::2]  # real above made
            lines = [
                np.concatenate(list(pairs[start : start + 8]), 1) for start in range(0, len(pairs) - 7, 8)
            ]
            cv2.imwrite(str(arguments.sheet), np.concatenate(lines)[..., ::-1])
    print(json.dumps(found))
    if arguments.json:
        kept_rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        kept_rows[arguments.name] = found | {"circumstances": circumstances()}
        arguments.json.write_text(json.dumps(kept_rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
