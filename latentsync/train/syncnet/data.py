"""Samples of a SyncNet: windows of frames with matching or other speech, and runs of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.axes import expect_axes
from latentsync.manifest import ManifestClip
from latentsync.models.framewise import cut_region
from latentsync.rates import STATES_PER_FRAME
from latentsync.recipe.networks import FramewiseConfig
from latentsync.recipe.train_syncnet import NegativesTable, SpeechAugmentation, SyncNetRecipe
from latentsync.recipe.training import PictureAugmentation
from latentsync.train.augment import change_pictures, change_speech
from latentsync.train.clips import (
    ClipWindows,
    Decoder,
    FeatureFiles,
    Sample,
    TooShort,
    draw_sample,
    draw_start_elsewhere,
    read_pictures,
)


def least_starts(negatives: NegativesTable) -> int:
    """How many windows a clip needs, so that every window in it has a mismatched one far enough away."""
    # With one fewer, the window in the middle would have none far enough away on either side.
    return 2 * negatives.min_distance_frames


def check_length(clip: ManifestClip, starts: int, negatives: NegativesTable, *, frames: int) -> None:
    """Refuse a clip that is too short for a mismatched pair.

    Args:
        starts: how many windows of `frames` frames the clip holds.

    Raises:
        TooShort: it holds too few windows.
    """
    if starts < least_starts(negatives):
        needed = frames + least_starts(negatives) - 1
        raise TooShort(f"{clip.frames} frames with sound for {starts} windows, {needed} are needed")


def wrong_start(start: int, starts: int, *, distance: int, random: np.random.Generator) -> int:
    """A first frame out of `starts` that is at least `distance` from `start`, all equally likely.

    >>> {wrong_start(3, 7, distance=3, random=np.random.default_rng(k)) for k in range(40)} == {0, 6}
    True
    """
    return draw_start_elsewhere(start, starts, before=distance, after=distance, random=random)


class SyncSamples(Dataset[Sample]):
    """Sample k of a run is a pure function of the recipe's seed, the clips and k.

    frames_u8  (n f h w c)  n windows: 1, or all windows of one clip for pairing = "in_clip_matrix"
    mel        (n 80 t)
    label      ()           1 where the speech matches the frames, else 0; with one window only
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
            # A short clip repeats windows, because all samples of a batch must have equally many.
            chosen = random.choice(starts, count, replace=starts < count)
            pairs = [self._window(clip, clip, int(s), int(s), random) for s in chosen]
            label = 1.0
        else:
            chosen = np.array([random.integers(starts)])
            label = float(random.random() < 0.5)
            pairs = [self._pair(clip, int(chosen[0]), starts, label, random)]
        frames, mel = zip(*pairs, strict=True)
        return {
            "frames_u8": torch.from_numpy(np.stack(frames)),  # n f h w c
            "mel": torch.stack(mel),  # n d t
            "label": torch.tensor(label),
            "starts": torch.from_numpy(np.asarray(chosen, np.int64)),
        }

    def _pair(
        self, clip: ManifestClip, start: int, starts: int, label: float, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """The speech at `start`, with the frames that match it or with others.

        Source: the official data set leaves the speech where it is and moves the frames.
        """
        if label:
            return self._window(clip, clip, start, start, random)
        if random.random() < self.negatives.other_clip_share and len(self.clips) > 1:
            other = self.clips[int(random.integers(len(self.clips)))]
            # The same clip drawn again has its own wrong speech, below.
            if other != clip:
                elsewhere = int(random.integers(self.source.starts_in(other)))
                return self._window(clip, other, start, elsewhere, random)
        distance = self.negatives.min_distance_frames
        moved = wrong_start(start, starts, distance=distance, random=random)
        return self._window(clip, clip, moved, start, random)

    def _window(
        self,
        visual: ManifestClip,
        speech_clip: ManifestClip,
        frame_start: int,
        speech_start: int,
        random: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Frames of one clip and speech of the same or another, both augmented."""
        frames = change_pictures(self.source.frames_at(visual, frame_start), self.pictures, random)
        jitter = self.speech.jitter_columns
        late = int(random.integers(-jitter, jitter + 1))
        mel = self.source.mel_at(speech_clip, speech_start, late_columns=late)
        background = None
        if random.random() < self.speech.other_speech:
            other = self.clips[int(random.integers(len(self.clips)))]
            background = self.source.mel_at(other, int(random.integers(self.source.starts_in(other))))
        return frames, change_speech(mel, self.speech, random, background=background)


@dataclass(frozen=True, slots=True)
class LipRegion:
    """The part of an aligned crop that a framewise SyncNet takes, at its size."""

    config: FramewiseConfig

    @property
    def frame_bytes(self) -> int:
        return self.config.rows * self.config.columns * 3

    @property
    def kind(self) -> str:
        """The name under which decoded clips are kept."""
        # Everything that changes the pixels is in the name, so no recipe reads the frames of another.
        shares = "-".join(f"{share:g}" for share in self.config.region_unit)
        return f"decoded-{self.config.rows}x{self.config.columns}-of-{shares}.npy"

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the region from one crop (h w c) and shrink it."""
        region = cut_region(torch.from_numpy(frame_u8).permute(2, 0, 1)[None], self.config)[0]
        return region.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@dataclass(frozen=True, slots=True)
class ClipRuns:
    """Cuts runs of `run_frames` consecutive frames from clips, and the Whisper states during them."""

    run_frames: int
    region: LipRegion
    features: FeatureFiles
    is_decoded: bool
    decoder: Decoder = "pyav"

    def starts_in(self, clip: ManifestClip) -> int:
        """How many first frames a run can have.

        Raises:
            TooShort: the clip has fewer frames than a run.
        """
        # The sound may end before the picture does.
        frames = min(clip.frames, len(self.features.whisper(clip)) // STATES_PER_FRAME)
        starts = frames - self.run_frames + 1
        if starts < 1:
            raise TooShort(f"{frames} frames with sound, {self.run_frames} are needed")
        return starts

    def frames_at(self, clip: ManifestClip, start: int, frames: int) -> NDArray[np.uint8]:
        """(f h w c), cut to the region."""
        features = self.features if self.is_decoded else None
        return read_pictures(clip, start, frames, self.region, features, decoder=self.decoder)

    def states_at(self, clip: ManifestClip, start: int, frames: int) -> Tensor:
        """Whisper states (t n d) float32 during `frames` frames."""
        span = slice(start * STATES_PER_FRAME, (start + frames) * STATES_PER_FRAME)
        return self.features.whisper(clip)[span].float()


class RunSamples(Dataset[Sample]):
    """Sample k of a training is a pure function of the recipe's seed, the clips and k.

    frames_u8  (f h w c)
    states     (t n d)  Whisper states, two per frame
    """

    def __init__(self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], source: ClipRuns) -> None:
        self.recipe, self.clips, self.source = recipe, tuple(clips), source

    def __len__(self) -> int:
        return self.recipe.run.samples

    def __getitem__(self, number: int) -> Sample:
        return draw_sample(number, self.clips, self._draw, stream="runs", seed=self.recipe.seed)

    def _draw(self, clip: ManifestClip, random: np.random.Generator) -> Sample:
        source, frames = self.source, self.source.run_frames
        start = int(random.integers(source.starts_in(clip)))
        pictures = change_pictures(source.frames_at(clip, start, frames), self.recipe.pictures, random)
        states = augment_states(source.states_at(clip, start, frames), self.recipe.speech, random)
        return {"frames_u8": torch.from_numpy(pictures), "states": states}


def augment_states(states: Tensor, table: SpeechAugmentation, random: np.random.Generator) -> Tensor:
    """Change Whisper states (t n d): noise as a share of their spread, and up to `time_mask` of them zeroed.

    Source: ours; the reference changes nothing.
    """
    expect_axes(states, "t n d")
    if table.noise:
        noise = torch.from_numpy(random.standard_normal(states.shape, np.float32))
        states = states + table.noise * states.std() * noise
    if table.time_mask:
        length = int(random.integers(table.time_mask + 1))
        first = int(random.integers(len(states) - length + 1))
        states = states.clone()
        states[first : first + length] = 0
    return states
