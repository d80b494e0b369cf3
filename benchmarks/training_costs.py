"""What the trainings of the paper cost on eight H100, from FLOPs and memory counted on torch's meta device.

    .venv/bin/python benchmarks/training_costs.py RECIPE... --json benchmarks/results/training_costs.json

Nothing is trained and no weight is loaded: one micro-batch of the real networks passes forward and backward
without numbers, as `--dry-run` does it on the machine at hand. The time assumes 30 % of the card's dense fp16
speed; it was not measured on a GPU, and reading the data is not in it. Recipes already in the file are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from latentsync.events import ignore
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train import estimate as estimating
from latentsync.train.clips import FeatureFiles
from latentsync.train.estimate import Estimate, estimate
from latentsync.train.syncnet.objective import ClipFiles
from latentsync.train.syncnet.objective import choose_objective as choose_syncnet
from latentsync.train.unet.data import blank_batch
from latentsync.train.unet.frozen import build_frozen
from latentsync.train.unet.objective import choose_objective, wanted_weights
from latentsync.train.unet.start import build_generator

CARDS = 8
H100_OPERATIONS_PER_S = 989e12  # dense fp16, NVIDIA's data sheet
META, CUDA = torch.device("meta"), torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    # The speed of a card that is not here is looked up, not probed.
    estimating._operations_per_s = lambda device, run: H100_OPERATIONS_PER_S
    for name in options.recipes:
        started_s = time.process_time()
        found = syncnet(name) if "syncnet" in name.split("/")[-1].split("-")[0] else generator(name)
        kept = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        kept[name] = facts(found, time.process_time() - started_s)
        options.json.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n", encoding="utf-8")
        print(name, kept[name], flush=True)


def generator(name: str) -> Estimate:
    recipe = load_recipe(name, UNetTrainingRecipe)
    frozen = build_frozen(recipe, wanted_weights(recipe))
    with META:
        model, _ = build_generator(recipe, frozen.vae, None, ignore)
    objective, batch = choose_objective(recipe, frozen), blank_batch(recipe, frozen.syncnet, device=META)
    parts = list(frozen.present())
    return estimate(model, objective, batch, recipe.run, frozen=parts, device=CUDA, processes=CARDS)


def syncnet(name: str) -> Estimate:
    recipe = load_recipe(name, SyncNetRecipe)
    objective = choose_syncnet(recipe, ClipFiles([], FeatureFiles(Path("none")), "no"))
    with META:
        model = objective.build()
    batch = objective.blank_batch(device=META)
    return estimate(model, objective, batch, recipe.run, device=CUDA, processes=CARDS)


def facts(found: Estimate, took_s: float) -> dict[str, Any]:
    return {
        "million_parameters": round(found.parameters / 1e6, 1),
        "million_trained": round(found.trained_parameters / 1e6, 1),
        "million_frozen": round(found.frozen_parameters / 1e6, 1),
        "tera_operations_per_sample": round(found.operations_per_sample / 1e12, 2),
        "samples": found.run.samples,
        "days": round(found.total_s / 86_400, 2),
        "gb_of_a_card": round(found.memory_bytes / 1e9, 1),
        "counted_in_processor_s": round(took_s, 1),
    }


if __name__ == "__main__":
    main()
