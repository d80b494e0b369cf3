"""How well a generator does on clips that it was not trained on: losses, videos to look at, and Sync_conf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.audio.whisper import RATE_HZ
from latentsync.axes import frames_to_batch
from latentsync.diffusion.sampling import denoise
from latentsync.diffusion.view import condition
from latentsync.errors import MediaError
from latentsync.manifest import ManifestClip
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter
from latentsync.metrics.sync import SyncJudge, score_sync
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import Seeds
from latentsync.train.clips import VIDEO_FPS
from latentsync.train.loop import Check, Validate
from latentsync.train.syncnet.validate import choose_evenly
from latentsync.train.unet.data import LipSource
from latentsync.train.unet.objective import (
    Step,
    build_training_scheduler,
    draw_noise,
    make_view,
    named_weights,
    to_pm1,
)
from latentsync.train.unet.wav2lip import lower_half_out, resized

# Makes the frames (f h w c) of one window out of a batch of one, whose reference is the target itself.
Draw = Callable[[nn.Module, dict[str, Tensor]], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What clips are tried with.

    step   gives the losses, as in training
    judge  measures Sync_conf; None where there is none
    """

    clips: Sequence[ManifestClip]
    source: LipSource
    step: Step
    draw: Draw
    judge: SyncJudge | None


def make_validate(recipe: UNetTrainingRecipe, examination: Examination) -> Validate:
    """What the loop calls to validate: measures of every clip of this process's share, and its video.

    Measures of a clip: each loss, their weighted sum `loss`, and `confidence`, `offset_frames`, `distance`.
    """
    chosen = choose_evenly(_long_enough(examination, recipe.validation.windows), recipe.validation.clips)
    weights = named_weights(recipe.loss)

    def validate(model: nn.Module, check: Check) -> list[dict[str, float]]:
        measured = []
        folder = check.output / "validation" / f"samples-{check.samples:09d}"
        for number in range(-(-len(chosen) // check.processes)):
            place = number * check.processes + check.rank
            # Every process calls the model equally often: sharded weights are gathered by all together.
            clip = chosen[min(place, len(chosen) - 1)]
            losses = _losses_of(model, clip, examination, recipe, first_number=place)
            made, audio_s = make_frames(model, clip, examination, recipe.validation.windows)
            if place < len(chosen):
                total = sum(weight * losses[name] for name, weight in weights.items())
                score = _score(examination.judge, made, clip, audio_s)
                _write_video(folder / f"{place:02d}-{clip.path.stem}.mp4", made, clip, audio_s)
                measured.append({**losses, "loss": total, **score})
        return measured

    return validate


def _long_enough(examination: Examination, windows: int) -> Sequence[ManifestClip]:
    """The clips that hold so many windows: a SyncNet has no confidence in short ones. All, if none does."""
    source = examination.source
    needed = (windows - 1) * source.frames + 1
    long = [clip for clip in examination.clips if source.windows.starts_in(clip) >= needed]
    return long or examination.clips


def make_frames(
    model: nn.Module, clip: ManifestClip, examination: Examination, windows: int
) -> tuple[NDArray[np.uint8], float]:
    """Make so many windows from the beginning of a clip: the frames (f h w c), and their duration.

    A clip that is shorter is made up to its last whole window, and that one again, to be as much work.
    """
    source = examination.source
    whole = max(1, (source.windows.starts_in(clip) - 1) // source.frames + 1)
    made = []
    for number in range(windows):
        start = min(number, whole - 1) * source.frames
        batch = _batch_of_one(source.sample(clip, start, start), model)
        made.append(examination.draw(model, batch))
    frames = np.concatenate(made[:whole])
    return frames, len(frames) / VIDEO_FPS


def make_unet_draw(recipe: UNetTrainingRecipe, vae: AnyAutoencoder) -> Draw:
    """Denoise the latents of a window, with the same frames as reference, and lay the mouth into them.

    Source: the official validation: 20 steps, guidance 1.5, and the frame itself outside the mask.
    """
    weight, view = next(vae.parameters()), make_view(recipe, vae)
    scheduler = build_training_scheduler(recipe.noise)
    seeds = Seeds(recipe.seed)

    def draw(model: nn.Module, batch: dict[str, Tensor]) -> NDArray[np.uint8]:
        target = to_pm1(batch["target_u8"]).to(weight)  # b c f h w
        faces = frames_to_batch(target)  # f c h w
        known = condition(view, faces, faces, lambda images: vae.encode(images).float())
        shared = recipe.noise.replaced(kind="shared")  # as `sync` draws it
        noise = draw_noise(known.reference.shape, seeds.generator("validation"), shared)
        latents = denoise(
            model,
            scheduler,
            noise.to(weight.device),
            known,
            batch["audio"].flatten(0, 1),
            steps=recipe.validation.steps,
            guidance=recipe.validation.guidance,
        )
        made = view.place(vae.decode(frames_to_batch(latents).to(weight)), faces)  # f c h w
        return _to_u8(made * (1 - view.mask) + faces * view.mask)

    return draw


def make_wav2lip_draw(recipe: UNetTrainingRecipe) -> Draw:
    """Draw a window, with the same frames as reference."""

    def draw(model: nn.Module, batch: dict[str, Tensor]) -> NDArray[np.uint8]:
        target = resized(to_pm1(batch["target_u8"]), recipe.wav2lip.resolution)
        return _to_u8(frames_to_batch(model(lower_half_out(target), target, batch["frame_mel"])))

    return draw


def _losses_of(
    model: nn.Module,
    clip: ManifestClip,
    examination: Examination,
    recipe: UNetTrainingRecipe,
    *,
    first_number: int,
) -> dict[str, float]:
    """Mean losses of as many windows of the clip as are made; noise and timesteps are the same every time."""
    source, count = examination.source, recipe.validation.windows
    starts = source.windows.starts_in(clip)
    total: dict[str, float] = {}
    for number in range(count):
        start = number * (starts - 1) // max(1, count - 1)
        batch = _batch_of_one(source.sample(clip, start, source.farthest(clip, start)), model)
        batch["number"] = torch.tensor([-1 - (first_number * count + number)])
        for name, loss in examination.step(model, batch).items():
            total[name] = total.get(name, 0.0) + loss.item() / count
    return total


def _batch_of_one(sample: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor[None].to(device) for name, tensor in sample.items()}


def _score(
    judge: SyncJudge | None, made: NDArray[np.uint8], clip: ManifestClip, audio_s: float
) -> dict[str, float]:
    if judge is None:
        return {}
    samples = read_audio(clip.path, rate_hz=RATE_HZ, end_s=audio_s).samples
    try:
        score = score_sync(judge, made, samples)
    except MediaError:  # too short for the judge: the losses still count
        return {}
    return {
        "confidence": score.confidence,
        "offset_frames": float(score.offset_frames),
        "distance": score.distance,
    }


def _write_video(path: Path, made: NDArray[np.uint8], clip: ManifestClip, audio_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = made.shape[1:3]
    with VideoWriter(
        path,
        width=columns,
        height=rows,
        fps=Fraction(VIDEO_FPS),
        like=None,
        speech=clip.path,
        encoding=Encoding(crf=16),
        duration_s=audio_s,
    ) as writer:
        for frame in made:
            writer.write(np.ascontiguousarray(frame))


def _to_u8(images_pm1: Tensor) -> NDArray[np.uint8]:
    """Pictures (f c h w) in -1..1 as (f h w c) in 0..255."""
    images = ((images_pm1.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).cpu().numpy()
