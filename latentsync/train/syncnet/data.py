"""Pairs of frames and speech that belong together, and pairs that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.mel import mel_window
from latentsync.manifest import ManifestClip
from latentsync.recipe.train_syncnet import NegativesTable, SpeechAugmentation, SyncNetRecipe
from latentsync.recipe.training import PictureAugmentation
from latentsync.train.augment import change_pictures, change_speech
from latentsync.train.clips import Features, Sample, TooShort, Windows, draw_sample
from latentsync.train.pictures import Region, read_pictures


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """Where windows of clips come from. `features` also holds the decoded frames if `is_decoded`."""

    windows: Windows
    region: Region
    features: Features
    is_decoded: bool

    def starts_in(self, clip: ManifestClip) -> int:
        """How many first frames a window of the clip can have."""
        return self.windows.starts_in(clip.frames, self.features.mel(clip).shape[1])

    def frames_at(self, clip: ManifestClip, start: int, *, frames: int | None = None) -> NDArray[np.uint8]:
        """The window's frames, or so many from its first one on: (f h w c)."""
        frames = frames or self.windows.frames
        return read_pictures(clip, start, frames, self.region, self.features if self.is_decoded else None)

    def mel_at(self, clip: ManifestClip, start: int, *, late_columns: int = 0) -> Tensor:
        """The window's speech (80 t), moved by `late_columns` as far as the clip reaches."""
        mel = self.features.mel(clip)
        window = mel_window(mel, start, frames=self.windows.frames)
        if not late_columns:
            return window
        columns = window.shape[1]
        first = start * 80 // 25 + late_columns
        first = min(max(0, first), mel.shape[1] - columns)
        return mel[:, first : first + columns]


def least_starts(negatives: NegativesTable) -> int:
    """How many windows a clip needs, so that every position in it has a wrong one far enough away."""
    return 2 * negatives.min_distance_frames


def check_length(clip: ManifestClip, starts: int, negatives: NegativesTable, windows: Windows) -> None:
    """Refuse a clip that cannot give a wrong pair.

    Raises:
        TooShort: it holds fewer windows than that takes.
    """
    if starts < least_starts(negatives):
        needed = windows.frames + least_starts(negatives) - 1
        raise TooShort(f"{clip.frames} frames with sound for {starts} windows, {needed} are needed")


def wrong_start(start: int, starts: int, *, distance: int, random: np.random.Generator) -> int:
    """A first frame out of `starts` that is at least `distance` from `start`, all equally likely.

    >>> {wrong_start(3, 7, distance=3, random=np.random.default_rng(k)) for k in range(40)} == {0, 6}
    True
    """
    return other_place(start, starts, before=distance, after=distance, random=random)


def other_place(start: int, places: int, *, before: int, after: int, random: np.random.Generator) -> int:
    """A place out of `places` at least `before` ahead of `start` or `after` behind it, all equally likely."""
    ahead = max(0, start - before + 1)
    behind = max(0, places - start - after)
    place = int(random.integers(ahead + behind))
    return place if place < ahead else start + after + place - ahead


class SyncSamples(Dataset[Sample]):
    """Sample k of a run is a pure function of the recipe's seed, the clips and k.

    frames_u8  (n f h w c)  n windows: 1, or all windows of one clip for pairing = "in_clip_matrix"
    mel        (n 80 t)
    label      ()           1 where the speech belongs to the frames, else 0; of one window only
    starts     (n)          first frames of the windows
    note       about a clip that could not be read and was replaced by the next
    """

    def __init__(self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], source: ClipWindows) -> None:
        self.negatives: NegativesTable = recipe.negatives
        self.pictures: PictureAugmentation = recipe.pictures
        self.speech: SpeechAugmentation = recipe.speech
        self.seed, self.samples = recipe.seed, recipe.run.samples
        self.clips, self.source = tuple(clips), source

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Sample:
        return draw_sample(number, self.clips, self._draw, stream="pairs", seed=self.seed)

    def _draw(self, clip: ManifestClip, random: np.random.Generator) -> Sample:
        starts = self.source.starts_in(clip)
        if self.negatives.pairing == "in_clip_matrix":
            count = self.negatives.windows_per_clip
            chosen = random.choice(starts, count, replace=starts < count)
            seen, heard = [self._window(clip, clip, int(s), int(s), random) for s in chosen], chosen
            label = 1.0
        else:
            heard = np.array([random.integers(starts)])
            label = float(random.random() < 0.5)
            seen = [self._pair(clip, int(heard[0]), starts, label, random)]
        frames, mel = zip(*seen, strict=True)
        return {
            "frames_u8": torch.from_numpy(np.stack(frames)),  # n f h w c
            "mel": torch.stack(mel),  # n d t
            "label": torch.tensor(label),
            "starts": torch.from_numpy(np.asarray(heard, np.int64)),
        }

    def _pair(
        self, clip: ManifestClip, heard: int, starts: int, label: float, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Right frames for the speech at `heard`, or wrong ones.

        Source: the official data set leaves the speech where it is and moves the frames.
        """
        if label:
            return self._window(clip, clip, heard, heard, random)
        if random.random() < self.negatives.other_clip_share and len(self.clips) > 1:
            other = self.clips[int(random.integers(len(self.clips)))]
            if other != clip:
                elsewhere = int(random.integers(self.source.starts_in(other)))
                return self._window(clip, other, heard, elsewhere, random)
        distance = self.negatives.min_distance_frames
        moved = wrong_start(heard, starts, distance=distance, random=random)
        return self._window(clip, clip, moved, heard, random)

    def _window(
        self, seen: ManifestClip, spoken: ManifestClip, start: int, heard: int, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Frames of one clip at `start` and speech of a clip at `heard`, both augmented."""
        frames = change_pictures(self.source.frames_at(seen, start), self.pictures, random)
        jitter = self.speech.jitter_columns
        late = int(random.integers(-jitter, jitter + 1))
        mel = self.source.mel_at(spoken, heard, late_columns=late)
        behind = None
        if random.random() < self.speech.other_speech:
            other = self.clips[int(random.integers(len(self.clips)))]
            behind = self.source.mel_at(other, int(random.integers(self.source.starts_in(other))))
        return frames, change_speech(mel, self.speech, random, behind=behind)
