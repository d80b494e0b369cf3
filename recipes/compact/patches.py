"""Random pictures to learn an autoencoder from: patches of frames and of still pictures, strongly changed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (h w c) RGB
SIDE_PX = 128
STILL_SHARE = 0.12  # patches that are no frames of people
DRAWN_SHARE = 0.25  # of those: gradients, shapes and text, in any colours
MOUTH_SHARE = 0.5  # patches of frames that lie in the lower middle, where the clips have the mouth
ZOOM_PX = (56, 250)  # side of the square that becomes a patch


class Patches:
    """Endless patches (128 128 3) of frames and still pictures.

    Args:
        frames_u8: (n h w c) frames of at least 250 px a side.
        weights: (n,) how likely each frame is, in sum 1.
        stills: other pictures of at least 128 px a side.
    """

    def __init__(
        self, frames_u8: NDArray[np.uint8], weights: NDArray[np.float64], stills: list[Picture]
    ) -> None:
        self.frames_u8, self.stills = frames_u8, stills
        self.ends = np.cumsum(weights)

    def draw(self, random: np.random.Generator) -> Picture:
        """One patch, cut, turned, recoloured and damaged at random."""
        if random.random() < STILL_SHARE:
            is_drawn = not self.stills or random.random() < DRAWN_SHARE
            cut = _drawn(random) if is_drawn else self._still(random)
        else:
            number = int(np.searchsorted(self.ends, random.random() * self.ends[-1]))
            is_mouth = random.random() < MOUTH_SHARE
            cut = _square(self.frames_u8[min(number, len(self.frames_u8) - 1)], random, is_mouth=is_mouth)
        if random.random() < 0.5:
            cut = cut[:, ::-1]
        if random.random() < 0.05:
            cut = np.rot90(cut, int(random.integers(1, 4)))
        return damage(recolour(np.ascontiguousarray(cut), random), random)

    def _still(self, random: np.random.Generator) -> Picture:
        return _square(self.stills[int(random.integers(len(self.stills)))], random, is_mouth=False)


def _square(picture: Picture, random: np.random.Generator, *, is_mouth: bool) -> Picture:
    height, width = picture.shape[:2]
    side = round(float(np.exp(random.uniform(*np.log(ZOOM_PX)))))
    side = min(side, height, width)
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    if is_mouth:
        middle = np.array([0.6, 0.5]) + random.normal(0, 0.08, 2)
        top, left = (
            int(np.clip(share * size - side / 2, 0, size - side))
            for share, size in zip(middle, (height, width), strict=True)
        )
    how = cv2.INTER_AREA if side > SIDE_PX else random.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])
    cut = picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(cut, (SIDE_PX, SIDE_PX), interpolation=int(how)), np.uint8)


def recolour(patch_u8: Picture, random: np.random.Generator) -> Picture:
    """Gamma, contrast, white balance, hue and saturation; saturated colours become common."""
    patch = patch_u8.astype(np.float32) / 255
    if random.random() < 0.7:
        patch = patch ** np.float32(np.exp(0.35 * random.normal()))
        patch = (patch - 0.5) * np.float32(np.exp(0.2 * random.normal())) + 0.5 + 0.08 * random.normal()
    if random.random() < 0.7:
        patch = patch * np.exp(0.18 * random.normal(size=3))
    if random.random() < 0.7:  # a turn and a stretch of colour around grey
        angle = random.normal() * 0.25 if random.random() < 0.7 else random.uniform(-np.pi, np.pi)
        grey = patch.mean(2, keepdims=True)
        stretch = np.exp(0.45 * random.normal() + 0.15)
        cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
        colour = patch - grey
        turned = cos * colour + sin * (np.roll(colour, 1, 2) - np.roll(colour, 2, 2))
        patch = grey + stretch * turned
    return np.asarray((patch * 255).clip(0, 255).round(), np.uint8)


def damage(patch_u8: Picture, random: np.random.Generator) -> Picture:
    """Light, blur, noise and compression, each on some of the patches."""
    patch = patch_u8
    if random.random() < 0.15:  # light from one side
        ramp = np.linspace(*np.exp(random.normal(0, 0.5, 2)), SIDE_PX, dtype=np.float32)
        ramp = np.broadcast_to(ramp, (SIDE_PX, SIDE_PX))
        shade = ramp if random.random() < 0.7 else ramp.T
        patch = np.asarray((patch * shade[..., None]).clip(0, 255), np.uint8)
    if random.random() < 0.12:
        patch = np.asarray(cv2.GaussianBlur(patch, (0, 0), random.uniform(0.4, 1.5)), np.uint8)
    if random.random() < 0.12:
        noise = random.standard_normal(patch.shape, dtype=np.float32) * np.float32(random.uniform(1, 6))
        patch = np.asarray((patch + noise).clip(0, 255).round(), np.uint8)
    if random.random() < 0.12:
        _, packed = cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(35, 96))])
        patch = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return patch


def _drawn(random: np.random.Generator) -> Picture:
    """A colour gradient with shapes and letters on it."""
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    picture = np.array(cv2.resize(corners, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)
    for _ in range(int(random.integers(1, 7))):
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        first, second = (tuple(int(value) for value in random.integers(0, SIDE_PX, 2)) for _ in range(2))
        kind, thick = int(random.integers(4)), int(random.integers(-1, 5)) or 1
        if kind == 0:
            cv2.rectangle(picture, first, second, colour, thick)
        elif kind == 1:
            cv2.circle(picture, first, int(random.integers(3, 50)), colour, thick, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(picture, first, second, colour, abs(thick) + 1, cv2.LINE_AA)
        else:
            letters = "".join(chr(code) for code in random.integers(33, 127, 6))
            cv2.putText(picture, letters, first, 0, random.uniform(0.3, 1.2), colour, 1, cv2.LINE_AA)
    return picture


def load_stills(folders: list[Path]) -> list[Picture]:
    """Every colour or grey picture in these folders that is large enough."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
                continue
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None and min(picture.shape[:2]) >= SIDE_PX:
                found.append(np.asarray(picture[..., ::-1], np.uint8))
    return found
