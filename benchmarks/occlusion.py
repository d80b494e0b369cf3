"""How well the occlusion network finds what is in front of faces, and what `sync` makes of it on real videos.

    python -m benchmarks.occlusion DATA_DIR VIDEO... [--weights FILE] [--sheets DIR] [--json results.json]

DATA_DIR holds faces.npz and hands.npz, see recipes/compact/README.md. On held-out people with held-out
occluders in front: intersection over union of the pixels on the face, over all and by kind. On each video:
the share of frames that are left as they are, of the lips and of the generated part that are marked, and the
processor time. A sheet has 60 frames spread evenly, with everything that would be painted over in magenta:
what is in front must not be.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.faces.choice import parse_face_choice
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import choose_landmarker
from latentsync.faces.occlusion import INPUT_PX, OcclusionFinder, load_occlusion
from latentsync.faces.paste import face_region, mouth_region, soft_mouth
from latentsync.faces.track import track
from latentsync.media.read import read_frames
from latentsync.recipe.loading import load_recipe
from latentsync.sync.generate import CutFrame, cut_crops
from latentsync.sync.occlusion import mark_occlusions, sure_parts
from latentsync.types import FrameImage
from recipes.compact.occluders import KINDS
from recipes.compact.occlusion import OcclusionRecipe
from recipes.compact.occlusion_data import Faces, occluded

RESOLUTION, SHEET_FRAMES, COLUMNS, TILE_PX = 256, 60, 12, 160
SEED, DRAWN_PER_KIND, FREE_FACES = 5, 150, 400
MAGENTA = np.array([255, 0, 255])


@dataclass(slots=True)
class Overlap:
    """Counts of pixels on faces."""

    both: int = 0
    either: int = 0

    def add(self, found: NDArray[np.bool_], real: NDArray[np.bool_]) -> None:
        self.both += int((found & real).sum())
        self.either += int((found | real).sum())

    @property
    def iou(self) -> float:
        return self.both / max(1, self.either)


def measure_drawn(data: Path, finder: OcclusionFinder) -> dict[str, float]:
    """The overlap by kind of occluder and over all, and the share of free faces' pixels that is marked."""
    recipe = load_recipe("compact/occlusion", OcclusionRecipe)
    faces = Faces(data, only=recipe.held_out, without=recipe.left_out)
    random, whole, rows = np.random.default_rng(SEED), Overlap(), {}
    shares = np.array(list(KINDS.values())) / sum(KINDS.values())
    for kind, share in zip(KINDS, shares, strict=True):
        alone, least = Overlap(), max(20, round(DRAWN_PER_KIND * len(KINDS) * share))
        for _ in range(least):
            picture_u8, covered, weight = occluded(faces, random, share=1.0, kinds=(kind,))
            found, real = sure_parts(finder.find(picture_u8)) > 0, covered > 0.5
            alone.add(found & (weight == 1), real & (weight == 1))
        whole.both, whole.either = whole.both + alone.both, whole.either + alone.either
        rows[f"iou_{kind.__name__}"] = alone.iou
    marked = []
    for _ in range(FREE_FACES):
        picture_u8, _, weight = occluded(faces, random, share=0.0)
        marked.append(float(sure_parts(finder.find(picture_u8))[weight == 1].mean()))
    return {"iou": whole.iou, **rows, "false_share": float(np.mean(marked))}


@dataclass(slots=True)
class Seen:
    """What was counted in one video; times are of the processor."""

    frames: int = 0
    faces: int = 0
    covered: int = 0
    turned: int = 0
    occluded: int = 0
    lips_share: float = 0.0
    region_share: float = 0.0
    look_ms: float = 0.0

    def add(self, cut: CutFrame) -> None:
        self.frames += 1
        self.faces += cut.tracked.face is not None
        self.covered += cut.why == "mouth covered"
        self.turned += cut.why == "face turned away"
        if cut.visible is None:
            return
        face, affine = cut.tracked.face, cut.tracked.affine
        assert face is not None and affine is not None
        self.occluded += 1
        lips = mouth_region(face.points, affine, side_px=INPUT_PX)
        region = face_region(face.points, affine, side_px=INPUT_PX) * soft_mouth(INPUT_PX)
        hidden = 1 - cut.visible
        self.lips_share += float((hidden * lips).sum()) / max(1.0, float(lips.sum()))
        self.region_share += float((hidden * region).sum() / max(1.0, float(region.sum())))

    def as_dict(self) -> dict[str, float]:
        shown = max(1, self.faces - self.covered - self.turned)
        return {
            "frames": self.frames,
            "faces": self.faces,
            "covered_percent": 100 * self.covered / max(1, self.faces),
            "turned_percent": 100 * self.turned / max(1, self.faces),
            "occluded_percent": 100 * self.occluded / shown,
            "lips_marked_percent": 100 * self.lips_share / shown,
            "region_marked_percent": 100 * self.region_share / shown,
            "ms_per_frame": self.look_ms / max(1, self.faces),
        }


def cuts_of(video: Path, face: str, seen: Seen, finder: OcclusionFinder) -> Iterator[CutFrame]:
    """The crops of a video as `sync` looks at them; the time that looking takes is added to `seen`."""
    tracked_frames = track(
        read_frames(video),
        choice=parse_face_choice(face),
        resolution=RESOLUTION,
        detector=Detector(),
        landmarker=choose_landmarker(),
    )

    def timed(cuts: Iterator[CutFrame]) -> Iterator[CutFrame]:
        inner_ms = 0.0

        def inner() -> Iterator[CutFrame]:
            nonlocal inner_ms
            while True:
                started = time.process_time()
                cut = next(cuts, None)
                inner_ms += 1000 * (time.process_time() - started)
                if cut is None:
                    return
                yield cut

        marked = mark_occlusions(inner(), finder, "keep")
        while True:
            started, before_ms = time.process_time(), inner_ms
            cut = next(marked, None)
            seen.look_ms += 1000 * (time.process_time() - started) - (inner_ms - before_ms)
            if cut is None:
                return
            yield cut

    return cut_crops(tracked_frames, fade_frames=0, mark=timed)


def painted(cut: CutFrame) -> FrameImage | None:
    """The part of the frame around the face with what would be painted over in magenta."""
    face, affine = cut.tracked.face, cut.tracked.affine
    if face is None or affine is None:
        return None
    window = cv2.warpAffine(cut.tracked.frame.rgb_u8, affine.crop_from_frame, (210, 280))
    crop = cv2.resize(window, (RESOLUTION, RESOLUTION))
    if cut.crop_u8 is not None:
        weight = face_region(face.points, affine) * soft_mouth(RESOLUTION)
        if cut.visible is not None:
            weight = weight * cv2.resize(cut.visible, (RESOLUTION, RESOLUTION))
        crop = crop + (MAGENTA - crop) * (0.55 * weight[..., None])
    else:
        crop = np.where(np.add(*np.indices((RESOLUTION, RESOLUTION)))[..., None] % 32 < 2, 255, crop)
    return np.asarray(cv2.resize(crop, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def measure_video(video: Path, face: str, finder: OcclusionFinder, sheet: Path | None) -> dict[str, float]:
    seen, tiles = Seen(), []
    for cut in cuts_of(video, face, seen, finder):
        seen.add(cut)
        tile = painted(cut) if sheet else None
        if tile is not None:
            tiles.append(tile)
    if sheet and tiles:
        chosen = [tiles[k] for k in np.linspace(0, len(tiles) - 1, min(SHEET_FRAMES, len(tiles))).astype(int)]
        chosen += [np.zeros_like(chosen[0])] * (-len(chosen) % COLUMNS)
        rows = [np.hstack(chosen[k : k + COLUMNS]) for k in range(0, len(chosen), COLUMNS)]
        cv2.imwrite(str(sheet), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    return seen.as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("videos", nargs="*", help="a path, or PATH@FACE with a choice as --face takes it")
    parser.add_argument("--weights", type=Path, help="default: the bundled ones")
    parser.add_argument("--sheets", type=Path, help="a folder outside the repository")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    finder = load_occlusion(arguments.weights)
    rows: dict[str, dict[str, float]] = {"drawn": measure_drawn(arguments.data, finder)}
    print(" ".join(f"{name} {value:.3f}" for name, value in rows["drawn"].items()), flush=True)
    for given in arguments.videos:
        path, _, face = given.partition("@")
        name = Path(path).stem + (f"@{face}" if face else "")
        sheet = arguments.sheets / f"{name}.png" if arguments.sheets else None
        rows[name] = measure_video(Path(path), face or "largest", finder, sheet)
        print(f"{name:28} " + " ".join(f"{key} {value:.2f}" for key, value in rows[name].items()), flush=True)
    if arguments.json:
        rounded = {name: {key: round(value, 4) for key, value in row.items()} for name, row in rows.items()}
        arguments.json.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
