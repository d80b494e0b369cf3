"""Trains the compact model's autoencoder to have TAEF2's latents and to draw what they hold.

    python -m recipes.compact.autoencoder FRAMES.npy TEACHER_DIR RUN_DIR [--samples 200000]

FRAMES.npy, with people.json beside it, is what frames.py wrote; TEACHER_DIR holds the teacher's files. The
same command again goes on from the last saved state; more --samples lengthen the run. RUN_DIR takes state.pt,
autoencoder.safetensors (the EMA weights), log.jsonl and a store of patches with their latents.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.models.autoencoder import build_tiny_autoencoder
from latentsync.recipe.networks import TinyAutoencoderConfig
from latentsync.train.checkpoint import EMA
from latentsync.train.losses import reconstruction_loss
from latentsync.weights.checkpoints import read_note, save_checkpoint
from latentsync.weights.read import read_tensors
from recipes.compact.patches import SIDE_PX, Patches, load_stills
from recipes.compact.teacher import Teacher
from recipes.compact.training import coarse_loss

SEED = 1247
BATCH = 8
FRESH_PER_STEP = 2  # patches that the teacher encodes anew; the others are drawn from the store
STORE_PATCHES, FIRST_PATCHES = 16_384, 768
LEARNING_RATE, FINAL_SHARE, WARMUP_STEPS = 1.2e-3, 0.03, 100
WEIGHT_DECAY = 1e-3
AVERAGE_DECAY = 0.998
EDGE_WEIGHT, COARSE_WEIGHT, FEATURE_WEIGHT, LATENT_WEIGHT = 1.0, 1.0, 0.1, 0.5
COARSE_PX = 8  # squares whose mean colours are compared: without it faces get pink patches
OWN_AFTER, OWN_SHARE = 10_000, 0.5  # samples after which this share is decoded from the student's own latents
LOG_STEPS, SAVE_SECONDS = 25, 240
WEIGHTS = "autoencoder.safetensors"
TEACHER_CHANNELS = 64
FEATURE_LEVELS = 2  # of the teacher's decoder: at 16 and 32 px; at 64 px the picture itself teaches as well


class Store:
    """Patches (n 128 128 3) on disk with the teacher's latents (n 32 16 16); the oldest are overwritten."""

    def __init__(self, folder: Path, patches: Patches, teacher: Teacher, random: np.random.Generator) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.patches, self.teacher, self.random = patches, teacher, random
        self.pictures_u8 = _array(folder / "pictures.npy", np.uint8, (STORE_PATCHES, SIDE_PX, SIDE_PX, 3))
        self.latents = _array(folder / "latents.npy", np.float16, (STORE_PATCHES, 32, 16, 16))
        self.count_file = folder / "count.json"
        self.made = json.loads(self.count_file.read_text()) if self.count_file.exists() else 0

    def make(self, count: int) -> None:
        """Put `count` new patches in."""
        for _ in range(count):
            patch = self.patches.draw(self.random)
            index = self.made % STORE_PATCHES
            with torch.autocast("cpu", torch.bfloat16):
                latents = self.teacher.encode(_images(patch[None]))
            self.pictures_u8[index], self.latents[index] = patch, latents[0].float().numpy()
            self.made += 1

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Pictures (n 3 h w) in -1..1 and latents (n c h w), all that are there equally likely."""
        chosen = self.random.integers(min(self.made, STORE_PATCHES), size=count)
        return _images(self.pictures_u8[chosen]), torch.from_numpy(self.latents[chosen]).float()

    def save(self) -> None:
        self.pictures_u8.flush()
        self.latents.flush()
        self.count_file.write_text(json.dumps(self.made))


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    if path.exists():
        return np.lib.format.open_memmap(path, "r+")
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _images(pictures_u8: np.ndarray[Any, Any]) -> Tensor:
    images = torch.from_numpy(np.ascontiguousarray(pictures_u8)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(slots=True)
class Progress:
    """Where a run is."""

    step: int = 0
    samples: int = 0
    busy_s: float = 0.0


class Trainer:
    """Student, projections to the teacher's features, optimizer and EMA of one run."""

    def __init__(self, teacher: Teacher, samples: int, learning_rate: float) -> None:
        torch.manual_seed(SEED)
        config = TinyAutoencoderConfig()
        self.model = build_tiny_autoencoder(config)
        self.to_teacher = nn.ModuleList(
            nn.Conv2d(channels, TEACHER_CHANNELS, 1)
            for channels in config.decoder_channels[::-1][:FEATURE_LEVELS]
        )
        self.teacher, self.samples, self.learning_rate = teacher, samples, learning_rate
        self.parameters = [*self.model.parameters(), *self.to_teacher.parameters()]
        # Muon takes matrices: each shares the memory of a convolution's weights (out in·h·w).
        self.kernels = [each for each in self.parameters if each.ndim == 4]
        self.matrices = [nn.Parameter(each.detach().flatten(1)) for each in self.kernels]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(self.matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [each for each in self.parameters if each.ndim < 4], weight_decay=0.0, betas=(0.9, 0.99)
            ),
        ]
        self.ema = EMA(self.model.parameters(), AVERAGE_DECAY)
        self.progress = Progress()

    def train(self, images: Tensor, latents: Tensor) -> dict[str, float]:
        """One step; returns the losses without their weights."""
        now = self.progress
        done = min(1.0, now.samples / self.samples)
        share = FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = (
                self.learning_rate * share * min(1, (now.step + 1) / WARMUP_STEPS)
            )
        own = round(OWN_SHARE * len(images)) if now.samples >= OWN_AFTER else 0
        with torch.autocast("cpu", torch.bfloat16):
            encoded = self.model.encode(images)
            found = self.model.decoder.features(torch.cat([encoded[:own], latents[own:].to(encoded)]))
            made = self.model.decoder.picture(found[-1])
            wanted = self.teacher.features(latents, levels=FEATURE_LEVELS)
            projected = [each(mine) for each, mine in zip(self.to_teacher, found, strict=False)]
        losses = {
            "picture": reconstruction_loss(made.float(), images, edge_weight=EDGE_WEIGHT),
            "features": torch.stack(
                [
                    functional.mse_loss(mine.float(), theirs.float()) / theirs.float().var()
                    for mine, theirs in zip(projected, wanted, strict=True)
                ]
            ).mean(),
            "latents": functional.smooth_l1_loss(encoded.float(), latents, beta=0.1),
        }
        losses["coarse"] = coarse_loss(made.float(), images, square_px=COARSE_PX)
        total = (
            losses["picture"]
            + COARSE_WEIGHT * losses["coarse"]
            + FEATURE_WEIGHT * losses["features"]
            + LATENT_WEIGHT * losses["latents"]
        )
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for optimizer in self.optimizers:
            optimizer.step()
        for each in self.parameters:
            each.grad = None
        now.step += 1
        now.samples += len(images)
        self.ema.update(now.step)
        with torch.no_grad():
            error = (made.float().clamp(-1, 1) - images).square().mean((1, 2, 3))
            losses["psnr"] = (10 * torch.log10(4 / error.clamp(min=1e-8)))[own:].mean()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def save(self, folder: Path) -> None:
        """Write the whole state, and the EMA weights for use."""
        state = {
            "model": self.model.state_dict(),
            "to_teacher": self.to_teacher.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.ema.means,
            "progress": [self.progress.step, self.progress.samples, self.progress.busy_s],
        }
        part = folder / "state.part"
        torch.save(state, part)
        os.replace(part, folder / "state.pt")
        with self.ema.applied():
            weights = {key: tensor.contiguous().half() for key, tensor in self.model.state_dict().items()}
        save_checkpoint(
            folder / WEIGHTS,
            weights,
            kind="autoencoder",
            config=self.model.config,
            facts={"step": self.progress.step, "samples": self.progress.samples},
        )

    def begin_with(self, path: Path) -> None:
        """Take weights that an earlier run gave away, and go on counting from where it was."""
        self.model.load_state_dict({name: tensor.float() for name, tensor in read_tensors(path).items()})
        self.ema.restart()
        facts = read_note(path).facts
        self.progress = Progress(facts["step"], facts["samples"])

    def resume(self, folder: Path, start: Path | None) -> None:
        """Go on from the last saved state, or else from the weights in `start`, if there are any."""
        path = folder / "state.pt"
        if not path.exists():
            if start is not None:
                self.begin_with(start)
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.to_teacher.load_state_dict(state["to_teacher"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for mean, saved in zip(self.ema.means, state["average"], strict=True):
            mean.copy_(saved)
        self.progress = Progress(*state["progress"])


def frame_weights(people: list[list[str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n,) how likely a frame is: kinds of source by share, then people evenly."""
    shares = {"news": 0.22, "grid_s1": 0.02, "assorted": 0.06, "synthetic": 0.08, "real": 0.5, "made": 0.12}
    groups: dict[str, dict[str, int]] = {}
    for kind, person in people:
        counts = groups.setdefault(kind, {})
        counts[person] = counts.get(person, 0) + 1
    return np.array(
        [shares.get(kind, 0.0) / len(groups[kind]) / groups[kind][person] for kind, person in people]
    )


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder: Path = arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    people = json.loads(arguments.frames.with_name("people.json").read_text())
    frames_u8 = np.load(arguments.frames, mmap_mode="r")[: len(people)]
    teacher = Teacher(arguments.teacher)
    trainer = Trainer(teacher, arguments.samples, arguments.learning_rate)
    trainer.resume(folder, arguments.start)
    random = np.random.default_rng([SEED, trainer.progress.step])
    patches = Patches(frames_u8, frame_weights(people), load_stills(arguments.stills))
    store = Store(arguments.store or folder / "store", patches, teacher, random)
    if store.made < FIRST_PATCHES:
        store.make(FIRST_PATCHES - store.made)
    now, sums, saved, is_stopped = trainer.progress, {}, time.monotonic(), Event()
    signal.signal(signal.SIGTERM, lambda *_: is_stopped.set())
    begun = time.monotonic() - now.busy_s
    with (folder / "log.jsonl").open("a") as log:
        while now.samples < arguments.samples and not is_stopped.is_set():
            store.make(arguments.fresh)
            for name, value in trainer.train(*store.draw(BATCH)).items():
                sums[name] = sums.get(name, 0.0) + value / LOG_STEPS
            now.busy_s = time.monotonic() - begun
            if now.step % LOG_STEPS == 0:
                line = {"step": now.step, "samples": now.samples, "busy_s": round(now.busy_s)}
                print(
                    json.dumps(line | {key: round(value, 4) for key, value in sums.items()}),
                    file=log,
                    flush=True,
                )
                sums = {}
            if time.monotonic() - saved > SAVE_SECONDS:
                trainer.save(folder)
                store.save()
                saved = time.monotonic()
    trainer.save(folder)
    store.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--fresh", type=int, default=FRESH_PER_STEP)
    parser.add_argument("--start", type=Path, help="weights of an earlier run, where RUN_DIR has no state.pt")
    parser.add_argument("--store", type=Path, help="default: RUN_DIR/store")
    parser.add_argument("--stills", type=Path, nargs="*", default=[], help="folders of other pictures")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
