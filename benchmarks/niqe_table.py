"""Make the table of natural faces that the metric `niqe` compares with, from sharp videos of real people.

    .venv/bin/python benchmarks/niqe_table.py VIDEO... -o latentsync/metrics/niqe.json

A frame counts where its face is at least as wide as the crop, so that the crop was never enlarged. The table
holds means and a covariance, and no picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from latentsync.evaluate.prepare import Faces, prepare
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import choose_landmarker
from latentsync.metrics.naturalness import describe, patch_features
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe

LONGEST_S = 4.0
EVERY_FRAMES = 10
SHARPEST_SHARE = 0.75  # Mittal et al. (2013)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    options = parser.parse_args()
    preparing = load_recipe("evaluate", EvaluateRecipe).prepare
    faces, found, used = Faces(Detector(), choose_landmarker()), [], 0
    for video in options.videos:
        made = prepare(video, preparing, faces, longest_s=LONGEST_S)
        zoom = np.linalg.norm(
            made.crop_from_frame[:, :, 1], axis=1
        )  # pixels of the crop for each of the frame
        chosen = [
            frame for frame in range(0, made.frames, EVERY_FRAMES) if made.seen[frame] and zoom[frame] <= 1
        ]
        found += [patch_features(made.crops_u8[frame], sharpest_share=SHARPEST_SHARE) for frame in chosen]
        used += bool(chosen)
        print(f"{video.name}: {len(chosen)} frames, zoom {zoom.min():.2f} to {zoom.max():.2f}")
    patches = np.concatenate(found)
    table = describe(patches)
    facts = {"videos": used, "frames": len(found), "patches": len(patches)}
    facts |= {"mean": table.mean.round(6).tolist(), "covariance": table.covariance.round(8).tolist()}
    options.output.write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
