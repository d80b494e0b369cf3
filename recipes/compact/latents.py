"""What the U-Net trains on: latents, Whisper tokens and lips of every clip, computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from labelled_clips import LabelledClip
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.whisper import WhisperEncoder, log_mel
from latentsync.audio.windows import states_for_frames
from latentsync.events import Progress, Report
from latentsync.models.vae import FaceVAE

WINDOW_SAMPLES = 480_000  # what Whisper hears at once: 30 s at 16 kHz
STEP_SAMPLES = 320
PAUSE_SAMPLES = 6_400  # between two clips of one window
SHORT_CLIP_FRAMES = 60  # of shorter clips every second frame is kept: their number makes up for it
LIP_POINTS = (*range(48, 68), *range(6, 11))  # lips and chin


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """One clip, ready to train on. All arrays are float16 but `lips`.

    target  (f c h w)  unscaled latents of the crops
    masked  (f c h w)  unscaled latents of the crops with the mouth painted out
    audio   (f n d)    Whisper tokens
    lips    (f, 50)    float32: lips and chin against the nose, less their median in the clip, in crop pixels
    """

    name: str
    target: NDArray[np.float16]
    masked: NDArray[np.float16]
    audio: NDArray[np.float16]
    lips: NDArray[np.float32]


def lip_shape(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How lips and chin differ from their median in the clip: (f 68 2) to (f, 50), in pixels."""
    nose = points[:, 27:36].mean(1, keepdims=True)
    shape = points[:, LIP_POINTS] - nose
    return np.asarray((shape - np.median(shape, axis=0)).reshape(len(points), -1), np.float32)


def hear_clips(
    clips: list[LabelledClip], whisper: WhisperEncoder, random: np.random.Generator
) -> Iterator[tuple[LabelledClip, Tensor]]:
    """Whisper states (t n d) of each clip, many short clips to a window of 30 s, in random order.

    In use a frame is heard among other speech, not 29 s of padding, and a window costs the same either way.
    """
    window: list[tuple[LabelledClip, NDArray[np.float32]]] = []
    used = 0
    for number in random.permutation(len(clips)):
        samples = clips[number].read("audio").astype(np.float32)[: WINDOW_SAMPLES - PAUSE_SAMPLES]
        if len(samples) < 10 * STEP_SAMPLES:
            continue
        needed = -(-len(samples) // STEP_SAMPLES) * STEP_SAMPLES + PAUSE_SAMPLES
        if window and used + needed > WINDOW_SAMPLES:
            yield from _hear_window(window, whisper)
            window, used = [], 0
        window.append((clips[number], samples))
        used += needed
    if window:
        yield from _hear_window(window, whisper)


def _hear_window(
    window: list[tuple[LabelledClip, NDArray[np.float32]]], whisper: WhisperEncoder
) -> Iterator[tuple[LabelledClip, Tensor]]:
    wave = np.zeros(WINDOW_SAMPLES, np.float32)
    starts, at = [], 0
    for _, samples in window:
        wave[at : at + len(samples)] = samples
        starts.append(at // STEP_SAMPLES)
        at += -(-len(samples) // STEP_SAMPLES) * STEP_SAMPLES + PAUSE_SAMPLES
    states = whisper.states(log_mel(wave)[None])[0].float().cpu()  # t n d
    for start, (clip, samples) in zip(starts, window, strict=True):
        yield clip, states[start : start + -(-len(samples) // STEP_SAMPLES)]


def prepare_clip(
    clip: LabelledClip, states: Tensor, vae: FaceVAE, mask: Tensor, random: np.random.Generator
) -> PreparedClip:
    """Encode a clip, mirrored and recoloured as a whole at random."""
    crops = clip.read("crops_u8")
    frames = slice(int(random.integers(2)), None, 2) if len(crops) < SHORT_CLIP_FRAMES else slice(None)
    images = torch.from_numpy(np.array(crops[frames])).permute(0, 3, 1, 2) / 127.5 - 1  # f c h w
    lips = lip_shape(np.asarray(clip.read("points")))[frames]
    if random.random() < 0.5:
        images = images.flip(3)
    if random.random() < 0.6:
        gain = torch.from_numpy(random.uniform(0.75, 1.25, (3, 1, 1))).float()
        images = ((images + random.uniform(-0.15, 0.15)) * gain).clamp(-1, 1)
    with torch.inference_mode():
        target = [vae.posterior(part).mean for part in images.split(32)]
        masked = [vae.posterior(part * mask).mean for part in images.split(32)]
    audio = states_for_frames(states, [float(time_s) for time_s in clip.read("time_s")[frames]])
    return PreparedClip(
        clip.name,
        torch.cat(target).half().numpy(),
        torch.cat(masked).half().numpy(),
        audio.half().numpy(),
        lips,
    )


def prepare_clips(
    clips: list[LabelledClip],
    vae: FaceVAE,
    whisper: WhisperEncoder,
    mask: Tensor,
    folder: Path,
    *,
    seed: int,
    report: Report,
) -> list[Path]:
    """Prepare every clip into `folder`, leaving out those that are there, and return the files.

    Args:
        mask: (h w) in crop pixels, 1 = kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [clip for clip in clips if not (folder / f"{clip.name}.npz").exists()]
    random = np.random.default_rng(seed)
    for done, (clip, states) in enumerate(hear_clips(waiting, whisper, random), 1):
        prepared = prepare_clip(clip, states, vae, mask, random)
        part = folder / f"{clip.name}.part"
        with part.open("wb") as file:
            np.savez(
                file, target=prepared.target, masked=prepared.masked, audio=prepared.audio, lips=prepared.lips
            )
        part.replace(folder / f"{clip.name}.npz")
        report(Progress("preparing clips", done, len(waiting), "clips"))
    return sorted(folder.glob("*.npz"))


def load_prepared(path: Path) -> PreparedClip:
    """Read one prepared clip."""
    with np.load(path) as arrays:
        return PreparedClip(path.stem, arrays["target"], arrays["masked"], arrays["audio"], arrays["lips"])
