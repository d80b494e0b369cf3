"""Trains one part of the bundled model; README.md next to this file says in which order.

    python -m recipes.compact.train PART DATA OUTPUT [--recipe NAME] [--set KEY=VALUE]

The same command again resumes from the last checkpoint in OUTPUT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from latentsync.compat import make_torchvision_importable
from latentsync.errors import LatentSyncError
from latentsync.recipe.loading import load_recipe
from latentsync_cli.console import make_report, show_failure, wrote
from recipes.compact import adapter, decoder, landmarks, occlusion, vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["landmarks", "occlusion", "vae", "adapter", "decoder"])
    parser.add_argument(
        "data",
        type=Path,
        help="labelled clips (label_clips.py); decoder: what `preprocess` wrote; occlusion: see README.md",
    )
    parser.add_argument("output", type=Path, help="folder for weights, checkpoints and the log")
    parser.add_argument("--recipe", help="a recipe file or name; default: compact/PART")
    parser.add_argument("--start", type=Path, help="vae: weights to start from, instead of random ones")
    parser.add_argument("--model", default="compact", help="decoder: whose networks, NAME or PATH")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    given = parser.parse_args()
    make_torchvision_importable()
    try:
        wrote(train(given))
    except LatentSyncError as error:
        show_failure(error)
        raise SystemExit(error.exit_code) from error


def train(given: argparse.Namespace) -> Path:
    """Train the part that was asked for and return its weights."""
    name, report = given.recipe or f"compact/{given.part}", make_report(quiet=False)
    data, output = given.data, given.output
    match given.part:
        case "landmarks":
            chosen = load_recipe(name, landmarks.LandmarksRecipe, overrides=given.set)
            return landmarks.run(data, output, chosen, report)
        case "occlusion":
            chosen_occlusion = load_recipe(name, occlusion.OcclusionRecipe, overrides=given.set)
            return occlusion.run(data, output, chosen_occlusion, report)
        case "vae":
            chosen_vae = load_recipe(name, vae.VAERecipe, overrides=given.set)
            return vae.run(data, output, chosen_vae, report, start=given.start)
        case "adapter":
            chosen_adapter = load_recipe(name, adapter.AdapterRecipe, overrides=given.set)
            return adapter.run(data, output, chosen_adapter, report)
        case _:
            chosen_decoder = load_recipe(name, decoder.DecoderRecipe, overrides=given.set)
            return decoder.run(data, output, chosen_decoder, report, model=given.model)


if __name__ == "__main__":
    main()
