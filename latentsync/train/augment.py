"""Augmentation of pictures and speech; every change can be switched off."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.recipe.train_syncnet import SpeechAugmentation
from latentsync.recipe.training import PictureAugmentation

MEL_PER_DB = 0.08  # the mel spans -4..4 over 100 dB
SILENCE = -4.0


def change_pictures(
    frames_u8: NDArray[np.uint8], table: PictureAugmentation, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Change a window (f h w c), all frames alike, so that the movement of the mouth is kept.

    Source: ours; the reference changes nothing.
    """
    if random.random() < table.mirror:
        frames_u8 = frames_u8[:, :, ::-1]
    if table.shift or table.scale or table.rotation_deg:
        frames_u8 = _move(frames_u8, table, random)
    colours = (
        table.brightness,
        table.contrast,
        table.gamma,
        table.colour,
        table.noise,
        table.blur,
        table.cutout,
    )
    return _recolour(frames_u8, table, random) if any(colours) else np.ascontiguousarray(frames_u8)


def _move(
    frames_u8: NDArray[np.uint8], table: PictureAugmentation, random: np.random.Generator
) -> NDArray[np.uint8]:
    height, width = frames_u8.shape[1:3]
    angle, scale, *shift = random.standard_normal(4).clip(-2, 2)
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), table.rotation_deg * angle, math.exp(table.scale * scale)
    )
    matrix[:, 2] += table.shift * width * np.array(shift)
    moved = [
        cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        for frame in np.ascontiguousarray(frames_u8)
    ]
    return np.stack(moved).astype(np.uint8, copy=False)


def _recolour(
    frames_u8: NDArray[np.uint8], table: PictureAugmentation, random: np.random.Generator
) -> NDArray[np.uint8]:
    gamma, contrast, bright, red, green, blue = random.standard_normal(6).clip(-2, 2)
    # One lookup table per channel is cheaper than computing every pixel.
    levels = (np.arange(256) / 255) ** math.exp(table.gamma * gamma)
    # Factors are drawn as logarithms: twice and half are equally likely, and none is negative.
    levels = (levels - 0.5) * math.exp(table.contrast * contrast) + 0.5 + table.brightness * bright
    gains = np.exp(table.colour * np.array([red, green, blue]))
    table_u8 = (np.outer(levels, gains) * 255).clip(0, 255).round().astype(np.uint8)  # 256 c
    changed = np.stack([table_u8[frames_u8[..., c], c] for c in range(3)], axis=-1)
    if random.random() < table.blur:
        sigma = random.uniform(0.4, 1.6)
        changed = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in changed])
    if table.noise:
        noise = random.standard_normal(changed.shape, dtype=np.float32)
        noisy = changed + noise * np.float32(255 * table.noise * random.random())
        changed = noisy.clip(0, 255).astype(np.uint8)
    if random.random() < table.cutout:
        height, width = changed.shape[1:3]
        rows, columns = (random.uniform(0.1, 0.35, 2) * (height, width)).astype(int)
        top, left = random.integers(height - rows), random.integers(width - columns)
        changed[:, top : top + rows, left : left + columns] = random.integers(0, 256, 3)
    return changed


def change_speech(
    mel: Tensor, table: SpeechAugmentation, random: np.random.Generator, *, background: Tensor | None = None
) -> Tensor:
    """Change a mel window (80 t) in -4..4.

    Args:
        background: another clip's mel window, mixed in.

    Source: ours; the reference changes nothing.
    """
    bands, columns = mel.shape
    if background is not None:
        mel = mix_speech(mel, background, below_db=table.other_speech_db * random.uniform(0.7, 1.5))
    if table.gain_db:
        mel = mel + MEL_PER_DB * random.uniform(-table.gain_db, table.gain_db)
    if table.noise:
        noise = random.standard_normal((bands, columns), dtype=np.float32)
        mel = mel + torch.from_numpy(noise) * (table.noise * random.random())
    mel = mel.clamp(-4, 4)
    width = min(columns, int(random.integers(table.time_mask + 1)))
    height = int(random.integers(table.frequency_mask + 1))
    left, top = int(random.integers(columns - width + 1)), int(random.integers(bands - height + 1))
    if width or height:
        mel = mel.clone()
        mel[:, left : left + width] = SILENCE
        mel[top : top + height] = SILENCE
    return mel


def mix_speech(mel: Tensor, background: Tensor, *, below_db: float) -> Tensor:
    """The mel of two sounds at once, the second turned down: powers add, where the mel is in decibels.

    >>> mix_speech(torch.zeros(80, 2), torch.zeros(80, 2), below_db=0.0)[0, 0].item() > 0.2
    True
    """
    # Powers add, and the mel is in decibels: log-add-exp on the natural logarithm of power.
    quieter = background - MEL_PER_DB * below_db
    steepness = math.log(10) / (10 * MEL_PER_DB)  # the mel as a natural logarithm of power
    return torch.logaddexp(mel * steepness, quieter * steepness) / steepness
