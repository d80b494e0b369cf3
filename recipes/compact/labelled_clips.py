"""Labelled clips, as `label_clips.py` writes them: finding them, reading one, drawing from many."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentsync.errors import MediaError
from latentsync.recipe.schema import Table

LONGEST_WEIGHT_FRAMES = 300  # a longer clip is not drawn more often than one of this length


class ClipGroup(Table):
    """Clips whose name matches `files` are drawn with this share of the whole."""

    files: str
    share: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A folder of aligned crops with landmarks, times and speech; arrays are read when asked for."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, field: str) -> NDArray[Any]:
        """One array of the clip, left on disk until it is indexed.

        Args:
            field: crops_u8 (f h w c), points (f n 2), time_s (f), audio (n), loose_u8 or loose_points.

        Raises:
            MediaError: the file is missing or damaged.
        """
        path = self.path / f"{field}.npy"
        try:
            found: NDArray[Any] = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(
                f"'{path}': cannot be read ({error})", hint="label this clip again, or remove its folder"
            ) from error
        return found


def find_clips(folder: Path) -> list[LabelledClip]:
    """Every labelled clip in `folder`, in the order of their names.

    Raises:
        MediaError: there is none.
    """
    paths = sorted(path.parent for path in folder.glob("*/crops_u8.npy") if path.parent.suffix != ".part")
    if not paths:
        raise MediaError(
            f"'{folder}': no labelled clips (NAME/crops_u8.npy)",
            hint="make them with recipes/compact/label_clips.py",
        )
    return [LabelledClip(path) for path in paths]


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether the name of a clip matches one of the patterns, in which * matches anything."""
    return any(fnmatch(name, pattern) for pattern in patterns)


class ClipDraw:
    """Draws clips: first a group by its share, then a clip of it by its length."""

    def __init__(self, names: list[str], frames: list[int], groups: tuple[ClipGroup, ...]) -> None:
        """Prepare draws from the clips called `names`, of which each has as many frames as `frames` says.

        Raises:
            MediaError: no clip belongs to any group.
        """
        members = [[k for k, name in enumerate(names) if fnmatch(name, group.files)] for group in groups]
        if not any(members):
            patterns = ", ".join(group.files for group in groups)
            raise MediaError(
                f"no clip matches a group of the recipe ({patterns})", hint="add clips or groups"
            )
        self._members = [np.array(member) for member in members if member]
        shares = np.array([group.share for group, member in zip(groups, members, strict=True) if member])
        self._shares = shares / shares.sum()
        self._weights = []
        for member in self._members:
            weights = np.array([min(frames[k], LONGEST_WEIGHT_FRAMES) for k in member], float)
            self._weights.append(weights / weights.sum())

    def draw(self, random: np.random.Generator) -> int:
        """The index of one clip."""
        group = random.choice(len(self._shares), p=self._shares)
        return int(random.choice(self._members[group], p=self._weights[group]))
