"""Whether a lip-synced face keeps its colours, teeth and detail, beside the video it was made from.

    python benchmarks/looks.py SOURCE=RESULT... [--json FILE]

RESULT is SOURCE with a new mouth, frame by frame. Columns, by pair:

    lips, cheeks  median over the frames of the CIE 2000 difference between the mean colours of the lips, and
                  of the skin beside them inside what was generated, in source and result
    change        largest change, within a second, of how the cheeks' colour differs from the source's, in
                  CIE Lab; both are averaged over 5 frames
    teeth         share of the pixels between the lips that are as bright as teeth, over that of the source;
                  over frames in which the mouth is open in both. With a person's own speech 1 is right; with
                  another one's it depends on what is said
    detail        gradient energy of the mouth in the aligned face of 256 px, over the source's, median

Landmarks are our own network's, of the result in its own frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from processes import circumstances
from skimage.color import deltaE_ciede2000

from latentsync.faces.align import align, mouth_mask, square_from_window
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import load_landmarks, square_around
from latentsync.faces.paste import face_region
from latentsync.faces.track import FaceChoice, track
from latentsync.media.read import read_frames
from latentsync.train.losses import mouth_region
from latentsync.types import AffineFrame

RESULTS = Path(__file__).parent / "results" / "looks.json"
FACE_PX = 256
TOOTH_LIGHTNESS = 55.0
OUTER, INNER = slice(48, 60), slice(60, 68)  # of the 68 points
OPEN_PX = 40  # pixels between the lips from which on a mouth counts as open
SMOOTH_FRAMES, SECOND_FRAMES = 5, 25
Points = NDArray[np.floating]  # (68 2)
Crop = NDArray[np.uint8]  # (h w c)


@dataclass(frozen=True, slots=True)
class Look:
    """One aligned face: mean Lab colours (3,) of lips and cheeks, what is between the lips, detail.

    between, bright  pixels between the lips, and those of them that are as bright as teeth
    """

    lips: NDArray[np.float64]
    cheeks: NDArray[np.float64]
    between: int
    bright: int
    energy: float


@dataclass(frozen=True, slots=True)
class Row:
    """One pair; see the top of the file."""

    name: str
    frames: int
    lips: float
    cheeks: float
    change: float
    teeth: float
    detail: float


def look_at(crop_u8: Crop, points: Points, skin: NDArray[np.bool_]) -> Look:
    """Measure one face of 256 px.

    Args:
        points: in pixels of the crop.
        skin: (h w) what counts as cheeks, if it is not lips.
    """
    outline, inside = np.zeros((2, FACE_PX, FACE_PX), np.uint8)
    cv2.fillPoly(outline, [points[OUTER].round().astype(np.int32)], 1)
    cv2.fillPoly(inside, [points[INNER].round().astype(np.int32)], 1)
    lab = cv2.cvtColor(crop_u8.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    around = cv2.dilate(outline, np.ones((21, 21), np.uint8)) > 0
    inner = inside > 0
    rows, columns = mouth_region(FACE_PX)
    mouth = lab[rows, columns, 0]
    return Look(
        lips=lab[(outline > 0) & ~inner].mean(0, dtype=np.float64),
        cheeks=lab[skin & ~around].mean(0, dtype=np.float64),
        between=int(inner.sum()),
        bright=int((lab[inner][:, 0] > TOOTH_LIGHTNESS).sum()),
        energy=float((np.diff(mouth, axis=0) ** 2).mean() + (np.diff(mouth, axis=1) ** 2).mean()),
    )


def in_crop(points: Points, affine: AffineFrame) -> Points:
    """Points of the frame in pixels of the aligned face."""
    square = square_from_window(FACE_PX) @ np.vstack([affine.crop_from_frame, [0, 0, 1]])
    return np.asarray(np.c_[points, np.ones(len(points))] @ square[:2].T)


def looks(source: Path, result: Path) -> Iterator[tuple[Look, Look]]:
    """Both looks of every frame with a face."""
    generated, landmarker = mouth_mask(FACE_PX) < 0.5, load_landmarks()
    rows = track(
        iter(read_frames(source)),
        choice=FaceChoice("largest"),
        resolution=FACE_PX,
        detector=Detector(),
        landmarker=landmarker,
    )
    for row, made in zip(rows, read_frames(result), strict=False):
        if row.face is None or row.affine is None:
            continue
        skin = generated & (face_region(row.face.points, row.affine, below=0.0) > 0.9)
        made_points, _ = landmarker.points(made.rgb_u8, square_around(row.face.points))
        yield (
            look_at(align(row.frame.rgb_u8, row.affine), in_crop(row.face.points, row.affine), skin),
            look_at(align(made.rgb_u8, row.affine), in_crop(made_points, row.affine), skin),
        )


def measure(source: Path, result: Path) -> Row:
    """One pair of videos."""
    pairs = list(looks(source, result))
    real, made = zip(*pairs, strict=True)
    lips = deltaE_ciede2000(np.stack([look.lips for look in real]), np.stack([look.lips for look in made]))
    cheeks_real, cheeks_made = (np.stack([look.cheeks for look in each]) for each in (real, made))
    opened = [pair for pair in pairs if min(look.between for look in pair) >= OPEN_PX]
    shares = [
        sum(look.bright for look in each) / sum(look.between for look in each)
        for each in zip(*opened, strict=True)
    ]
    return Row(
        name=result.stem,
        frames=len(pairs),
        lips=float(np.median(lips)),
        cheeks=float(np.median(deltaE_ciede2000(cheeks_real, cheeks_made))),
        change=largest_change(cheeks_made - cheeks_real),
        teeth=shares[1] / shares[0] if opened and shares[0] > 0 else float("nan"),
        detail=statistics.median(b.energy / max(a.energy, 1e-6) for a, b in pairs),
    )


def largest_change(shift: NDArray[np.float64]) -> float:
    """The largest change of a colour's shift (f 3) within a second, in Lab."""
    kernel = np.ones(SMOOTH_FRAMES) / SMOOTH_FRAMES
    if len(shift) <= SMOOTH_FRAMES:
        return float("nan")
    smooth = np.stack([np.convolve(column, kernel, "valid") for column in shift.T], axis=1)  # f 3
    return max(
        float(np.linalg.norm(smooth[first + 1 : first + 1 + SECOND_FRAMES] - smooth[first], axis=1).max())
        for first in range(len(smooth) - 1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="SOURCE=RESULT")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for pair in arguments.pairs:
        source, _, result = pair.partition("=")
        rows.append(measure(Path(source), Path(result)))
        print(json.dumps({key: _short(value) for key, value in asdict(rows[-1]).items()}), flush=True)
    columns = ("lips", "cheeks", "change", "teeth", "detail")
    means = {name: _short(float(np.nanmean([getattr(row, name) for row in rows]))) for name in columns}
    print(json.dumps({"mean": means}))
    document: dict[str, Any] = {
        "mean": means,
        "rows": [{key: _short(value) for key, value in asdict(row).items()} for row in rows],
        "circumstances": circumstances(),
    }
    arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
