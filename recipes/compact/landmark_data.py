"""Labelled face squares for the landmark network: loading them and changing them at random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from latentsync.faces.landmarks import INPUT_PX
from latentsync.recipe.schema import Amount, Positive, Table
from recipes.compact.labelled_clips import find_clips, matches_any

# The index of each of the 68 points in the mirrored picture.
MIRRORED = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)


@dataclass(frozen=True, slots=True)
class LabelledSquares:
    """Loose squares around faces, with points.

    pictures_u8  (n c h w) RGB
    points       (n 68 2) in pixels of the picture
    sources      (n) name of the clip each came from
    """

    pictures_u8: Tensor
    points: Tensor
    sources: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.pictures_u8)

    def only(self, patterns: tuple[str, ...], *, keep: bool) -> LabelledSquares:
        """Those whose file name matches one of `patterns` (`keep`), or those that match none."""
        matches = {name: matches_any(name, patterns) for name in np.unique(self.sources)}
        chosen = np.array(
            [index for index, name in enumerate(self.sources) if matches[name] == keep], np.int64
        )
        return LabelledSquares(self.pictures_u8[chosen], self.points[chosen], self.sources[chosen])


def load_labels(folder: Path) -> LabelledSquares:
    """Every `loose_u8` and `loose_points` of the labelled clips in `folder`.

    Raises:
        MediaError: there are none.
    """
    pictures, points, sources = [], [], []
    for clip in find_clips(folder):
        pictures.append(torch.from_numpy(np.array(clip.read("loose_u8"))).permute(0, 3, 1, 2))  # n c h w
        points.append(torch.from_numpy(np.array(clip.read("loose_points"))).float())
        sources += [clip.name] * len(pictures[-1])
    return LabelledSquares(torch.cat(pictures), torch.cat(points), np.array(sources))


class Augmentation(Table):
    """How far squares and colours are moved. Lengths are fractions of the extent of the 68 points.

    shift      fraction of the side of the square
    negatives  share of squares cut so that there is no whole face in them
    """

    side_min: Positive
    side_max: Positive
    shift: Amount
    rotation_deg: Amount
    negatives: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True)
class Squares:
    """pictures_pm1 (n 3 96 96), points (n 68 2) in 0..1 of the square, is_face (n) 0 or 1."""

    pictures_pm1: Tensor
    points: Tensor
    is_face: Tensor


def draw_batch(
    squares: LabelledSquares, indices: Tensor, augmentation: Augmentation, random: torch.Generator
) -> Squares:
    """Cut a random square out of each chosen picture, mirror, colour and damage it."""
    count = len(indices)
    pictures = squares.pictures_u8[indices].float() / 255
    points = squares.points[indices]
    low, high = points.amin(1), points.amax(1)
    extent = (high - low).amax(1)
    is_face = torch.rand(count, generator=random) >= augmentation.negatives
    side, shift = _choose_squares(is_face, augmentation, random)
    centre = (low + high) / 2 + shift * extent[:, None]
    angle = torch.randn(count, generator=random).clamp(-2, 2) * math.radians(augmentation.rotation_deg) / 2
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    turn = turn * (side * extent)[:, None, None]  # unit square -> picture
    is_mirrored = torch.rand(count, generator=random) < 0.5
    turn[is_mirrored, :, 0] *= -1
    cut = _cut(pictures, turn, centre, padding="border" if torch.rand(1, generator=random) < 0.5 else "zeros")
    unit = torch.linalg.solve(turn, (points - centre[:, None]).mT).mT + 0.5
    unit = torch.where(is_mirrored[:, None, None], unit[:, list(MIRRORED)], unit)
    return Squares(_damage(_recolour(cut, random), random) * 2 - 1, unit, is_face.float())


def straight_batch(squares: LabelledSquares, indices: Tensor, *, side: float) -> Squares:
    """Cut squares as the tracker does, unchanged otherwise, for validation."""
    points = squares.points[indices]
    low, high = points.amin(1), points.amax(1)
    turn = torch.eye(2) * (side * (high - low).amax(1))[:, None, None]
    centre = (low + high) / 2
    cut = _cut(squares.pictures_u8[indices].float() / 255, turn, centre, padding="zeros")
    unit = torch.linalg.solve(turn, (points - centre[:, None]).mT).mT + 0.5
    return Squares(cut * 2 - 1, unit, torch.ones(len(indices)))


def _choose_squares(
    is_face: Tensor, augmentation: Augmentation, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Side (n) and shift (n 2) of each square, in extents: around faces, or next to and inside them."""
    count = len(is_face)
    uniform = torch.rand(count, 4, generator=random)
    side = augmentation.side_min + (augmentation.side_max - augmentation.side_min) * uniform[:, 0]
    shift = (2 * uniform[:, 1:3] - 1) * augmentation.shift * side[:, None]
    direction = F.normalize(torch.randn(count, 2, generator=random), dim=1)
    is_next_to = uniform[:, 3] < 0.6
    next_to_side = 0.4 + 1.1 * uniform[:, 0]
    next_to_shift = direction * (0.5 + 0.35 * next_to_side + 0.3 * uniform[:, 1])[:, None]
    inside_side = 0.15 + 0.4 * uniform[:, 0]
    inside_shift = direction * 0.4 * uniform[:, 1:2]
    wrong_side = torch.where(is_next_to, next_to_side, inside_side)
    wrong_shift = torch.where(is_next_to[:, None], next_to_shift, inside_shift)
    return torch.where(is_face, side, wrong_side), torch.where(is_face[:, None], shift, wrong_shift)


def _cut(pictures: Tensor, turn: Tensor, centre: Tensor, *, padding: str) -> Tensor:
    """Sample 96 px squares: pixel k of the square lies at k / 96 of its side."""
    unit = torch.arange(INPUT_PX) / INPUT_PX - 0.5
    grid = torch.stack(torch.meshgrid(unit, unit, indexing="xy"), -1).reshape(-1, 2)
    pixels = grid @ turn.mT + centre[:, None]
    size = torch.tensor([pictures.shape[3] - 1, pictures.shape[2] - 1])
    normalised = (2 * pixels / size - 1).reshape(-1, INPUT_PX, INPUT_PX, 2)
    return F.grid_sample(pictures, normalised, padding_mode=padding, align_corners=True)


def _recolour(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Gamma, contrast, brightness, colour cast and saturation, each by a little."""
    count = len(pictures)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random).clamp(-2, 2)

    pictures = pictures.clamp(1e-4, 1) ** (0.25 * normal(1, 1, 1)).exp()
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * (0.4 * normal(1, 1, 1)).exp()
    mean = pictures.mean((1, 2, 3), keepdim=True)
    pictures = mean + (pictures - mean) * (0.22 * normal(1, 1, 1)).exp()
    return pictures * (0.07 * normal(3, 1, 1)).exp() + 0.06 * normal(1, 1, 1)


def _damage(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Low resolution, blocks, noise and covering patches, each on some of the pictures."""
    count = len(pictures)
    order = torch.randperm(count, generator=random)
    quarter = count // 5
    small = int(torch.randint(24, 64, (1,), generator=random))
    soft, blocky, noisy, covered = (order[k * quarter : (k + 1) * quarter] for k in range(4))
    shrunk = F.interpolate(pictures[soft], size=small, mode="bilinear", antialias=True)
    pictures[soft] = F.interpolate(shrunk, size=INPUT_PX, mode="bilinear")
    blocks = F.interpolate(pictures[blocky], size=INPUT_PX // 4, mode="area")
    blocks = F.interpolate(blocks, size=INPUT_PX, mode="nearest")
    pictures[blocky] = 0.6 * pictures[blocky] + 0.4 * blocks
    pictures[noisy] += 0.06 * torch.randn(pictures[noisy].shape, generator=random)
    for index in covered.tolist():
        row, column, height, width = (torch.rand(4, generator=random) * INPUT_PX).int().tolist()
        colour = torch.rand(3, 1, 1, generator=random)
        pictures[index, :, row : row + height // 2, column : column + width // 2] = colour
    return pictures.clamp(0, 1)
