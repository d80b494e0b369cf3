"""How well the networks rebuild a mouth that they may not see, beside what their autoencoder can do at best.

    python benchmarks/reconstruction.py DATA --people REGEX [--model MODEL] [--clips N]

DATA is what `latentsync preprocess` made at the model's resolution. Every frame of a clip is generated from
its own speech, its masked self, and a reference frame of the same clip that is one second away: its mouth
says something else. The crops are compared as they come from the networks; nothing is pasted. Columns, by
clip: SSIM and PSNR of the mouth region (the box around what the mask hides), the same for the ceiling (the
crop encoded and decoded), and for the reference frame shown in place of the right one, which says what a
network would reach that ignores speech.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lips import interval
from numpy.typing import NDArray
from processes import circumstances
from torch import Tensor

from latentsync.audio.whisper import SpeechStates
from latentsync.audio.windows import states_for_frames
from latentsync.axes import frames_to_batch
from latentsync.diffusion.noise import shared_noise
from latentsync.diffusion.sampling import build_scheduler, denoise
from latentsync.diffusion.view import build_view, condition
from latentsync.faces.align import mouth_mask
from latentsync.manifest import ManifestClip, read_manifest
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.image import Psnr, Ssim
from latentsync.metrics.metric import Missing, ScoredClip
from latentsync.runtime import Seeds, choose_device, choose_dtype
from latentsync.weights.models import LipModel, find_model, load_model

RESULTS = Path(__file__).parent / "results" / "reconstruction.json"
GOAL_SSIM = 0.80
FPS = 25
AWAY_FRAMES = 25
LONGEST_S = 5.0
BATCH_FRAMES = 16
KINDS = ("made", "ceiling", "reference")
Crops = NDArray[np.uint8]  # (f h w c)


class Mouth:
    """Generates crops as `sync` does, with reference frames of one's choice."""

    def __init__(self, model: LipModel, guidance: float | None) -> None:
        self.model = model
        self.guidance = model.spec.guidance if guidance is None else guidance
        mask = mouth_mask(model.spec.resolution)
        pixels = torch.from_numpy(mask).to(model.device, model.dtype)  # h w
        self.view = build_view(model.spec.view, pixels, factor=model.vae.factor)
        side = len(self.view.small(pixels))
        shape = (1, model.vae.latent_channels, 1, side, side)
        self.noise = shared_noise(shape, Seeds(1247).generator("noise")).to(pixels)
        self.scheduler = build_scheduler(model.spec.prediction_type, model.spec.timestep_spacing)

    @torch.inference_mode()
    def rebuild(self, crops_u8: Crops, reference_u8: Crops, audio: Tensor) -> tuple[Crops, Crops]:
        """The generated crops, and the crops through the autoencoder, as (f h w c)."""
        model, frames = self.model, len(crops_u8)
        images, others = self._images(crops_u8), self._images(reference_u8)  # f c h w
        audio = audio.to(model.device, model.dtype)
        warp = model.unet.warp_for(audio, self.guidance)
        latents = denoise(
            model.unet,
            self.scheduler,
            self.noise.expand(-1, -1, frames, -1, -1),
            condition(self.view, images, others, model.vae.encode, warp=warp),
            audio,
            steps=model.spec.steps,
            guidance=self.guidance,
        )
        known = model.vae.encode(self.view.cut(images))
        return self._crops(frames_to_batch(latents), images), self._crops(known, images)

    def _images(self, crops_u8: Crops) -> Tensor:
        images = torch.from_numpy(crops_u8).movedim(-1, 1)  # f c h w
        return images.to(self.model.device, self.model.dtype) / 127.5 - 1

    def _crops(self, latents: Tensor, faces: Tensor) -> Crops:
        inserted = self.view.insert(self.model.vae.decode(latents), faces)
        images = inserted.float().cpu().movedim(1, -1)  # f h w c
        return np.asarray(((images + 1) * 127.5).clamp(0, 255).round().numpy(), np.uint8)


def measure(clip: ManifestClip, mouth: Mouth) -> dict[str, float]:
    """SSIM and PSNR of the mouth, of the generated crops, of the ceiling, and of the reference frames."""
    crops_u8 = np.stack([frame.rgb_u8 for frame in read_frames(clip.path, end_s=LONGEST_S)])
    frames, side = len(crops_u8), mouth.model.spec.resolution
    if crops_u8.shape[1:3] != (side, side):
        raise SystemExit(f"{clip.path}: crops of {crops_u8.shape[1]} px, the model takes {side}")
    numbers = np.arange(frames)
    away = np.where(numbers + AWAY_FRAMES < frames, AWAY_FRAMES, -AWAY_FRAMES)
    reference_u8 = crops_u8[numbers + away]
    speech = read_audio(clip.path).samples
    steps = SpeechStates(mouth.model.whisper, speech, mode="overlap")
    audio = states_for_frames(steps, (numbers / FPS).tolist())  # f n d
    parts = [slice(first, first + BATCH_FRAMES) for first in range(0, frames, BATCH_FRAMES)]
    built = [mouth.rebuild(crops_u8[part], reference_u8[part], audio[part]) for part in parts]
    made_u8, ceiling_u8 = (np.concatenate(stack) for stack in zip(*built, strict=True))
    found: dict[str, float] = {"frames": frames}
    for kind, shown_u8 in zip(KINDS, (made_u8, ceiling_u8, reference_u8), strict=True):
        compared = ScoredClip(name=clip.name, made_u8=shown_u8, real_u8=crops_u8, speech=speech)
        for metric, name in ((Ssim(), "ssim_mouth"), (Psnr(), "psnr_mouth")):
            score = metric.score(compared)
            found[f"{name}_{kind}"] = float("nan") if isinstance(score, Missing) else score[name]
    return found


def choose(data: Path, people: str, most: int) -> list[ManifestClip]:
    """Clips of at least two seconds of these people, so many at most, the same number of each if possible."""
    wanted = re.compile(people)
    clips = [
        clip
        for clip in read_manifest(data)
        if wanted.fullmatch(clip.person or "") and clip.frames >= 2 * AWAY_FRAMES
    ]
    by_person: dict[str, list[ManifestClip]] = {}
    for clip in sorted(clips, key=lambda each: each.name):
        by_person.setdefault(clip.person or "", []).append(clip)
    turns = max((len(own) for own in by_person.values()), default=0)
    dealt = [own[turn] for turn in range(turns) for _, own in sorted(by_person.items()) if turn < len(own)]
    return dealt[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--people", default=".*", help="a regular expression, of the whole name")
    parser.add_argument("--clips", type=int, default=16, help="at most")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--guidance", type=float, help="the model's own if not given")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    clips = choose(arguments.data, arguments.people, arguments.clips)
    if not clips:
        parser.error("no such clips of two seconds")
    device = choose_device("auto")
    model = load_model(find_model(arguments.model), device=device, dtype=choose_dtype("auto", device))
    mouth = Mouth(model, arguments.guidance)
    report = {"circumstances": circumstances(), "model": arguments.model, "guidance": mouth.guidance}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    columns = [f"{name}_mouth_{kind}" for name in ("ssim", "psnr") for kind in KINDS]
    print(f"{'person':8}{'frames':>7}" + "".join(f"{name.replace('_mouth_', ' '):>16}" for name in columns))
    for clip in clips:
        found = measure(clip, mouth)
        rows.append({"clip": clip.name, "person": clip.person, **found})
        numbers = "".join(f"{found[column]:16.3f}" for column in columns)
        print(f"{clip.person:8}{found['frames']:7.0f}{numbers}", flush=True)
        means = {column: interval([row[column] for row in rows]) for column in columns}
        text = json.dumps(report | {"means": means, "clips": rows}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    for column, mean in means.items():
        print(f"  {column:24}{mean['mean']:8.3f}  ({mean['low']:.3f} to {mean['high']:.3f})")
    verdict = "reached" if means["ssim_mouth_made"]["mean"] >= GOAL_SSIM else "missed"
    print(f"goal: SSIM of the mouth at least {GOAL_SSIM:g}: {verdict}")


if __name__ == "__main__":
    main()
