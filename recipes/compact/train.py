"""Trains one part of the compact model; the way there is in README.md beside this file."""

from __future__ import annotations

import argparse
from pathlib import Path

from schemas import CompactUNetRecipe, DecoderRecipe, VAERecipe

from latentsync.compat import make_torchvision_importable
from latentsync.recipe.loading import load_recipe
from latentsync_cli.console import make_report, wrote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["landmarks", "vae", "unet", "decoder"])
    parser.add_argument(
        "data",
        type=Path,
        help="labelled clips, as label_clips.py writes them; for the decoder what preprocess wrote",
    )
    parser.add_argument("output", type=Path, help="folder for weights and the state of the run")
    parser.add_argument("--recipe", help="a recipe file or name; default: compact/PART")
    parser.add_argument("--model", default="compact", help="decoder: whose networks, NAME or PATH")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    given = parser.parse_args()
    make_torchvision_importable()
    recipe, report = given.recipe or f"compact/{given.part}", make_report(quiet=False)
    given.output.mkdir(parents=True, exist_ok=True)
    if given.part == "landmarks":
        import landmarks as landmarks

        job = landmarks.TrainLandmarksJob(given.data, given.output / "landmarks.safetensors")
        chosen = load_recipe(recipe, landmarks.LandmarksRecipe, overrides=given.set)
        wrote(landmarks.run(job, chosen, report).weights)
    elif given.part == "vae":
        import vae as vae

        chosen_vae = load_recipe(recipe, VAERecipe, overrides=given.set)
        wrote(vae.run(vae.TrainVAEJob(given.data, given.output), chosen_vae, report))
    elif given.part == "decoder":
        import decoder as decoder

        decoder_job = decoder.TrainDecoderJob(given.data, given.output, given.model)
        chosen_decoder = load_recipe(recipe, DecoderRecipe, overrides=given.set)
        wrote(decoder.run(decoder_job, chosen_decoder, report))
    else:
        import unet as unet

        beside = given.output / "vae.safetensors"
        unet_job = unet.TrainCompactJob(given.data, given.output)
        if beside.exists():
            unet_job = unet.TrainCompactJob(given.data, given.output, vae=beside)
        wrote(unet.run(unet_job, load_recipe(recipe, CompactUNetRecipe, overrides=given.set), report))


if __name__ == "__main__":
    main()
