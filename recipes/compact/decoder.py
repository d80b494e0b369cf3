"""Finishes the decoder of the compact model's autoencoder on what its U-Net predicts; the encoder stays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from discriminator import PatchDiscriminator
from predicted import (
    PredictedWindow,
    Speaker,
    load_window,
    plan_windows,
    prepare_windows,
)
from schemas import DecoderRecipe
from torch import Tensor, nn
from torch.nn import functional

from latentsync.errors import MediaError
from latentsync.events import Measured, Plan, Progress, Report
from latentsync.faces.align import mouth_mask
from latentsync.models.vae import FaceVAE
from latentsync.train.clips import Features, find_clips
from latentsync.train.ema import Average
from latentsync.train.losses import (
    coarse_loss,
    feature_loss,
    hinge_loss,
    mouth_region,
    reconstruction_loss,
)
from latentsync.train.unet.data import PACKAGED, Hearing
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.models import DEFAULT_MODEL, find_model, load_model

# What the discriminator sees of a crop, as shares of its side: the mouth and its surroundings, all hidden.
JUDGED_ROWS = (0.4375, 0.9375)
JUDGED_COLUMNS = (0.1875, 0.8125)


@dataclass(frozen=True, slots=True)
class TrainDecoderJob:
    """`data` is what `preprocess` wrote; `output` takes predictions, the state of the run and the result.

    model  whose autoencoder is finished, by its name or the path of its U-Net
    """

    data: Path
    output: Path
    model: str = DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class Pairs:
    """Frames that follow each other two by two: real (b c h w) in -1..1; latents (b c h w)."""

    real: Tensor
    true: Tensor
    predicted: Tensor


def run(job: TrainDecoderJob, recipe: DecoderRecipe, report: Report) -> Path:
    """Train and return the weights; the same command again goes on from the last saved step.

    Raises:
        MediaError: there are no clips to train on, or none is long enough.
        WeightsError: the model's files are damaged.
    """
    clips, _ = find_clips(job.data, held_out=recipe.held_out)
    model = load_model(find_model(job.model), device=torch.device("cpu"), dtype=torch.float32)
    hearing = Hearing(Features.beside(job.data, job.output), PACKAGED)
    planned = plan_windows(clips, recipe.windows, seed=recipe.seed)
    if not planned:
        raise MediaError(
            f"'{job.data}': all {len(clips)} clips are too short for a window and a reference",
            hint="lower windows.frames or windows.reference_gap_frames, or preprocess longer clips",
        )
    for clip in {window.clip for window in planned}:
        hearing.prepare(clip, model.whisper, Lock())
    speaker = Speaker(model, hearing, recipe)
    paths = prepare_windows(planned, speaker, job.output, report)
    windows = [load_window(path) for path in paths]
    vae = model.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(recipe.seed)  # model initialisation
    trainer = Trainer(vae, windows, recipe, job.output / "decoder.pt")
    trainer.resume()
    target = job.output / "vae.safetensors"
    people = len({window.clip.person for window in planned})
    report(Plan((f"{len(windows)} windows of {people} people, {recipe.steps - trainer.step} steps",)))
    for step in range(trainer.step + 1, recipe.steps + 1):
        losses = trainer.train(step)
        report(Progress("training", step, recipe.steps, "steps"))
        if step % recipe.save_every_steps == 0 or step == recipe.steps:
            report(Measured(step, losses))
            trainer.save()
            trainer.write(target)
    return target


class Trainer:
    """Decoder, discriminator, their optimizers and the random stream of one run, and how they are saved."""

    def __init__(
        self, vae: FaceVAE, windows: Sequence[PredictedWindow], recipe: DecoderRecipe, state: Path
    ) -> None:
        self.vae, self.windows, self.recipe, self.state = vae, windows, recipe, state
        vae.requires_grad_(False)
        self.decoder = nn.ModuleList([vae.network.post_quant_conv, vae.network.decoder]).requires_grad_(True)
        self.discriminator = PatchDiscriminator(recipe.discriminator_channels)
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), weight_decay=recipe.weight_decay, betas=(0.5, 0.99)
        )
        self.opponent = torch.optim.AdamW(
            self.discriminator.parameters(), weight_decay=0.0, betas=(0.5, 0.99)
        )
        self.average = Average(self.decoder.parameters(), recipe.average_decay)
        self.random = np.random.default_rng(recipe.seed)
        self.step = 0
        side = windows[0].crops_u8.shape[1]
        self.hidden = 1 - torch.from_numpy(mouth_mask(side))  # h w, 1 where generated
        rows, columns = (
            slice(*(int(share * side) for share in ends)) for ends in (JUDGED_ROWS, JUDGED_COLUMNS)
        )
        self.judged = (slice(None), slice(None), rows, columns)

    def draw(self) -> Pairs:
        """Pairs of frames of windows, all windows equally likely."""
        chosen = []
        for _ in range(self.recipe.batch_pairs):
            window = self.windows[int(self.random.integers(len(self.windows)))]
            first = int(self.random.integers(len(window.true) - 1))
            span = slice(first, first + 2)
            chosen.append((window.crops_u8[span], window.true[span], window.predicted[span]))
        crops, true, predicted = (
            torch.from_numpy(np.concatenate(column)).float() for column in zip(*chosen, strict=True)
        )
        return Pairs(crops.permute(0, 3, 1, 2) / 127.5 - 1, true, predicted)  # b c h w

    def train(self, step: int) -> dict[str, float]:
        """One step of both; returns the losses, each without its weight."""
        recipe = self.recipe
        share = min(1, step / recipe.warmup_steps, 4 * (1.0005 - step / recipe.steps))
        for optimizer, rate in (
            (self.optimizer, recipe.learning_rate),
            (self.opponent, recipe.discriminator_learning_rate),
        ):
            optimizer.param_groups[0]["lr"] = rate * share
        pairs = self.draw()
        made = self.vae.decode(torch.cat([pairs.true, pairs.predicted]))
        shown = self.paste(made, pairs.real.repeat(2, 1, 1, 1))
        against = self.teach(pairs.real, shown.detach())
        losses = self.losses(pairs.real, made, shown)
        weights = recipe.loss
        total = (
            losses["rebuilt"]
            + weights.mouth * losses["mouth"]
            + weights.motion * losses["motion"]
            + weights.coarse * losses["coarse"]
        )
        if step > recipe.adversarial_after:
            total = (
                total
                + weights.adversarial * losses["adversarial"]
                + weights.features * losses["features"]
                + weights.spoken_features * losses["spoken_features"]
            )
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(step)
        self.step = step
        return {"discriminator": against, **{name: float(loss.detach()) for name, loss in losses.items()}}

    def paste(self, made: Tensor, real: Tensor) -> Tensor:
        """Put what the mask hides of `made` into `real` (b c h w), in the colours of what it keeps.

        Source: ours; latents do not hold every tint, and `sync` matches colours, too.
        """
        kept = 1 - self.hidden
        tint = ((real - made) * kept).sum((2, 3), keepdim=True) / kept.sum()
        return torch.lerp(real, made + tint.detach(), self.hidden)

    def teach(self, real: Tensor, shown: Tensor) -> float:
        """Let the discriminator learn from real frames and twice as many made ones; returns its loss."""
        self.discriminator.train().requires_grad_(True)
        scores, _ = self.discriminator(torch.cat([real, shown])[self.judged])
        loss = hinge_loss(scores[: len(real)], scores[len(real) :])
        self.opponent.zero_grad()
        loss.backward()
        self.opponent.step()
        self.discriminator.eval().requires_grad_(False)  # its norms stay while the decoder learns
        return float(loss.detach())

    def losses(self, real: Tensor, made: Tensor, shown: Tensor) -> dict[str, Tensor]:
        """Everything the decoder minimises, without weights.

        Args:
            made, shown: (2·b c h w) of the true latents, then of the predicted ones; `shown` real outside.
        """
        edge, count = self.recipe.loss.edge, len(real)
        rebuilt, spoken = made[:count], shown[count:]
        rows, columns = mouth_region(real.shape[2])
        with torch.no_grad():
            _, wanted = self.discriminator(real[self.judged])
        scores, seen = self.discriminator(shown[self.judged])
        return {
            "rebuilt": reconstruction_loss(rebuilt, real, edge_weight=edge),
            "mouth": reconstruction_loss(
                rebuilt[:, :, rows, columns], real[:, :, rows, columns], edge_weight=edge
            ),
            "motion": functional.l1_loss(rebuilt[1::2] - rebuilt[::2], real[1::2] - real[::2]),
            "coarse": coarse_loss(spoken, real, square_px=self.recipe.loss.coarse_px),
            "adversarial": -scores.mean(),
            "features": feature_loss([layer[:count] for layer in seen], wanted),
            "spoken_features": feature_loss([layer[count:] for layer in seen], wanted),
        }

    def write(self, target: Path) -> None:
        """Write the autoencoder with the averaged decoder, at half precision."""
        with self.average.applied():
            state = {key: tensor.half() for key, tensor in self.vae.state_dict().items()}
        save_checkpoint(target, state, kind="vae", config=self.vae.config)

    def save(self) -> None:
        """Write the whole state, at once or not at all."""
        part = self.state.with_suffix(".part")
        torch.save(
            {
                "decoder": self.decoder.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "average": self.average.means,
                "optimizer": self.optimizer.state_dict(),
                "opponent": self.opponent.state_dict(),
                "step": self.step,
                "random": self.random.bit_generator.state,
            },
            part,
        )
        os.replace(part, self.state)

    def resume(self) -> bool:
        """Take up a saved state if there is one."""
        if not self.state.exists():
            return False
        saved: dict[str, Any] = torch.load(self.state, weights_only=True)
        self.decoder.load_state_dict(saved["decoder"])
        self.discriminator.load_state_dict(saved["discriminator"])
        for mean, kept in zip(self.average.means, saved["average"], strict=True):
            mean.copy_(kept)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.opponent.load_state_dict(saved["opponent"])
        self.step = saved["step"]
        self.random.bit_generator.state = saved["random"]
        return True
