"""Trains the compact model's U-Net: noise, masked face, another frame and speech to clean latents."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labelled_clips import ClipDraw, find_clips, matches_any
from latents import PreparedClip, load_prepared, prepare_clips
from schemas import CompactUNetRecipe, Hearing
from torch import Tensor, nn
from torch.nn import functional

from latentsync.diffusion.sampling import build_scheduler
from latentsync.events import Measured, Plan, Progress, Report
from latentsync.faces.align import latent_mask, mouth_mask
from latentsync.models.adapter import AudioAdapter
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.runtime import Seeds
from latentsync.train.losses import mouth_weights, pixel_loss
from latentsync.weights.checkpoints import load_checkpoint, save_checkpoint
from latentsync.weights.models import BUNDLED
from latentsync.weights.released import load_whisper

CROP_PX = 128


@dataclass(frozen=True, slots=True)
class TrainCompactJob:
    """`data` holds labelled clips; `output` takes prepared clips, the state of the run and the result."""

    data: Path
    output: Path
    vae: Path = BUNDLED / "vae.safetensors"
    whisper: Path = BUNDLED / "whisper-tiny-en.safetensors"


@dataclass(frozen=True, slots=True)
class Batch:
    """target, masked, reference (b c h w) scaled latents; audio (b n d)."""

    target: Tensor
    masked: Tensor
    reference: Tensor
    audio: Tensor


def run(job: TrainCompactJob, recipe: CompactUNetRecipe, report: Report) -> Path:
    """Train and return the weights; the same command again goes on from the last saved step.

    Raises:
        MediaError: there are no labelled clips.
        WeightsError: the autoencoder or the Whisper file does not fit.
    """
    vae = load_checkpoint(job.vae, kind="vae", config_type=VAEConfig, build=build_vae)
    vae = vae.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whisper = load_whisper(job.whisper, device="cpu", dtype=torch.float32)
    mask = torch.from_numpy(mouth_mask(CROP_PX))
    found = [clip for clip in find_clips(job.data) if not matches_any(clip.name, recipe.held_out)]
    paths = prepare_clips(found, vae, whisper, mask, job.output / "clips", seed=recipe.seed, report=report)
    clips = [clip for clip in map(load_prepared, paths) if len(clip.target) > 1]
    torch.manual_seed(recipe.seed)  # model initialisation
    unet = build_unet(recipe.network.replaced(latent_channels=vae.latent_channels))
    unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    report(Plan((f"{len(clips)} clips, {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters",)))
    trainer = Trainer(unet, vae, clips, recipe, job.output / "state.pt")
    if not trainer.resume() and unet.adapter is not None:
        learn_to_hear(unet.adapter, clips, recipe.hearing, Seeds(recipe.seed), report)
    target = job.output / "unet.safetensors"
    steps = recipe.frames // recipe.batch_frames
    for step in range(trainer.step + 1, steps + 1):
        loss = trainer.train(step, steps)
        report(Progress("training", step, steps, "steps"))
        if step % recipe.save_every_steps == 0 or step == steps:
            report(Measured(step, {"loss": loss}))
            trainer.save()
            save_checkpoint(target, trainer.average.state_dict(), kind="unet", config=unet.config)
    return target


def learn_to_hear(
    adapter: AudioAdapter, clips: list[PreparedClip], hearing: Hearing, seeds: Seeds, report: Report
) -> None:
    """Teach the ear to tell the shape of the lips from speech, so that the U-Net has something to attend to.

    Without it the U-Net spends its first thousands of steps on what it sees.
    """
    audio = torch.from_numpy(np.concatenate([clip.audio for clip in clips]))  # m n d
    lips = torch.from_numpy(np.concatenate([clip.lips for clip in clips])) / 4  # m k
    generator = seeds.generator("hearing")
    head = nn.Linear(adapter.place.shape[1], lips.shape[1])
    parameters = [*adapter.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=hearing.learning_rate, weight_decay=0.05)
    for step in range(1, hearing.steps + 1):
        optimizer.param_groups[0]["lr"] = hearing.learning_rate * min(1, step / 100)
        chosen = torch.randint(len(audio), (hearing.batch_frames,), generator=generator)
        heard = audio[chosen].float()
        heard = heard + hearing.noise * torch.randn(heard.shape, generator=generator)
        loss = functional.smooth_l1_loss(head(adapter(heard)[1]), lips[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(Progress("learning to hear", step, hearing.steps, "steps"))
    report(Measured(hearing.steps, {"hearing": loss.item()}))


class Trainer:
    """The networks, the optimizer and the random streams of one run, and how they are saved."""

    def __init__(
        self, unet: LipUNet, vae: FaceVAE, clips: list[PreparedClip], recipe: CompactUNetRecipe, state: Path
    ) -> None:
        self.unet, self.vae, self.clips, self.recipe, self.state = unet, vae, clips, recipe, state
        self.average = copy.deepcopy(unet).requires_grad_(False)
        self.step = 0
        ear = [] if unet.adapter is None else list(unet.adapter.parameters())
        groups = [
            {"params": list(unet.network.parameters()), "share": 1.0},
            {"params": ear, "share": recipe.adapter_learning_rate_share},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
        self.scheduler = build_scheduler("sample", "trailing")
        self.draws = ClipDraw(
            [clip.name for clip in clips], [len(clip.target) for clip in clips], recipe.groups
        )
        self.latent_mask = torch.from_numpy(latent_mask(mouth_mask(CROP_PX), factor=vae.factor))  # h w
        self.weights = mouth_weights(self.latent_mask, mouth=recipe.mouth_weight, kept=recipe.kept_weight)
        self.random = np.random.default_rng(recipe.seed)
        self.generator = Seeds(recipe.seed).generator("noise")

    def train(self, step: int, steps: int) -> float:
        """One step of `steps`; returns the loss."""
        recipe = self.recipe
        rate = recipe.learning_rate * min(1, step / recipe.warmup_steps, 2 * (1.0005 - step / steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        batch = self.draw()
        predicted = self.predict(batch)
        loss = ((predicted - batch.target).abs() * self.weights).mean()
        if step > steps * (1 - recipe.pixel_share):
            few = slice(0, recipe.pixel_frames)
            loss = loss + recipe.pixel_weight * pixel_loss(self.vae, predicted[few], batch.target[few])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        kept = min(recipe.average_decay, (1 + step) / (10 + step))
        for mean, now in zip(self.average.parameters(), self.unet.parameters(), strict=True):
            mean.lerp_(now.detach(), 1 - kept)
        self.step = step
        return float(loss.detach())

    def draw(self) -> Batch:
        """Frames of clips, each with another frame of its clip as reference."""
        scale = self.vae.config.scaling_factor
        rows = []
        for _ in range(self.recipe.batch_frames):
            clip = self.clips[self.draws.draw(self.random)]
            frames = len(clip.target)
            gap = min(self.recipe.reference_gap_frames, frames // 3)
            frame = int(self.random.integers(frames))
            others = [k for k in range(frames) if abs(k - frame) >= max(1, gap)]
            other = int(self.random.choice(others))
            rows.append((clip.target[frame], clip.masked[frame], clip.target[other], clip.audio[frame]))
        target, masked, reference, audio = (
            torch.from_numpy(np.stack(column)).float() for column in zip(*rows, strict=True)
        )
        audio = audio + self.recipe.audio_noise * torch.randn(audio.shape, generator=self.generator)
        is_silent = torch.rand(len(audio), generator=self.generator) < self.recipe.audio_dropout
        return Batch(target * scale, masked * scale, reference * scale, audio * ~is_silent[:, None, None])

    def predict(self, batch: Batch) -> Tensor:
        """Clean latents (b c h w) from the targets at random timesteps, mostly the noisiest."""
        count, last = len(batch.target), len(self.scheduler.alphas_cumprod) - 1
        is_first = torch.rand(count, generator=self.generator) < self.recipe.first_timestep_share
        anywhere = torch.randint(0, last + 1, (count,), generator=self.generator)
        timesteps = torch.where(is_first, torch.full((count,), last), anywhere)
        noise = torch.randn(batch.target.shape, generator=self.generator)
        noisy = self.scheduler.add_noise(batch.target, noise, timesteps)
        seen = [noisy, self.latent_mask.expand(count, 1, -1, -1), batch.masked, batch.reference]
        sample = torch.cat(seen, dim=1)[:, :, None]  # b c f h w
        predicted: Tensor = self.unet(sample, timesteps, batch.audio)
        return predicted[:, :, 0]

    def save(self) -> None:
        """Write the whole state, at once or not at all."""
        part = self.state.with_suffix(".part")
        torch.save(
            {
                "unet": self.unet.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "random": self.random.bit_generator.state,
                "generator": self.generator.get_state(),
            },
            part,
        )
        os.replace(part, self.state)

    def resume(self) -> bool:
        """Take up a saved state if there is one."""
        if not self.state.exists():
            return False
        saved: dict[str, Any] = torch.load(self.state, weights_only=True)
        self.unet.load_state_dict(saved["unet"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self.random.bit_generator.state = saved["random"]
        self.generator.set_state(saved["generator"])
        return True
