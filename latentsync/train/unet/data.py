"""Windows of frames, other frames of the same person, and what is heard: what a lip generator trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.mel import MEL_STEPS_PER_S
from latentsync.audio.whisper import RATE_HZ, WhisperEncoder, encode_speech
from latentsync.audio.windows import WHISPER_STATES_PER_S, states_for_frames
from latentsync.errors import MediaError
from latentsync.manifest import ManifestClip
from latentsync.media.sound import read_audio
from latentsync.models.wav2lip import MEL_STEPS
from latentsync.recipe.train_unet import LipWindows, UNetTrainingRecipe
from latentsync.train.augment import change_pictures
from latentsync.train.clips import (
    VIDEO_FPS,
    WHISPER_KIND,
    Features,
    Sample,
    TooShort,
    draw_sample,
)
from latentsync.train.syncnet.data import ClipWindows, other_place
from latentsync.weights.read import read_metadata

MOST_REPEATS = 16
PACKAGED = "compact"
NAMES_IN_PREPROCESS = {"whisper-tiny": "tiny", PACKAGED: PACKAGED}  # what `save_features` calls them
FRAME_MEL_BEFORE = MEL_STEPS // 2  # a frame hears as much before it as after


class CachedStates:
    """Whisper states of a clip on disk, of which only those that are asked for are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as states:
            self.steps = int(states.get_shape()[0])

    def __len__(self) -> int:
        return self.steps

    def take(self, steps: Tensor) -> Tensor:
        """The states (k n d), float32, of the steps (k,)."""
        first, last = int(steps.min()), int(steps.max())
        with self._opened() as states:
            taken: Tensor = states[first : last + 1]
        return taken[steps - first].float()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, framework="pt") as file:
                yield file.get_slice("whisper")
        except (OSError, SafetensorError) as error:
            raise MediaError(f"'{self.path}': cannot be read ({error})", hint="remove this file") from error


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a Whisper hears in clips, kept by the hash of the clip, as preprocessing may have done already.

    whisper  its name in the recipe; files of different Whispers lie apart
    """

    features: Features
    whisper: str

    def path_of(self, clip: ManifestClip) -> Path:
        """Where the states of a clip are: with those of preprocessing and of `train-syncnet`, or apart.

        `train-syncnet` hears with the packaged Whisper, so only its states are put there.
        """
        saved = self.features.path_of(clip, WHISPER_KIND)
        told = read_metadata(saved).get("whisper") if saved.exists() else PACKAGED
        if self.whisper in NAMES_IN_PREPROCESS and told == NAMES_IN_PREPROCESS[self.whisper]:
            return saved
        return self.features.path_of(clip, f"{Path(self.whisper).stem}-states.safetensors")

    def prepare(self, clip: ManifestClip, encoder: WhisperEncoder, lock: Lock) -> None:
        """Hear a clip, unless that was done before.

        Args:
            lock: held while the encoder runs, which takes one clip at a time.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip)
        if path.exists():
            return
        samples = read_audio(clip.path, rate_hz=RATE_HZ).samples
        with lock:
            states = encode_speech(encoder, samples).half()  # t n d
        kind, told = path.name.partition(".")[2], {"whisper": self.whisper}
        self.features.write(clip, kind, lambda part: save_file({"whisper": states}, part, told))

    def tokens(self, clip: ManifestClip, frames: range) -> Tensor:
        """What the frames hear: (f n d)."""
        return states_for_frames(CachedStates(self.path_of(clip)), [frame / VIDEO_FPS for frame in frames])

    def steps(self, clip: ManifestClip, frames: range) -> Tensor:
        """The Whisper states during the frames, two a frame (t n d); the last one repeats."""
        kept = CachedStates(self.path_of(clip))
        during = range(*(WHISPER_STATES_PER_S * edge // VIDEO_FPS for edge in (frames.start, frames.stop)))
        return kept.take(torch.tensor(during).clamp(max=len(kept) - 1))


@dataclass(frozen=True, slots=True)
class LipSource:
    """Where windows of clips come from.

    hearing    None for a generator that hears mel alone
    has_states  whether the Whisper states of a window are given too, for the SyncNet that hears those
    reference_frames  in a reference: as many as in a window (None), or 1
    gap        frames that are left out between a window and its reference
    """

    windows: ClipWindows
    hearing: Hearing | None
    has_states: bool = False
    reference_frames: int | None = None
    gap: int = 0

    @property
    def frames(self) -> int:
        return self.windows.windows.frames

    @property
    def _before(self) -> int:
        """How far before a window a reference begins at least."""
        return (self.reference_frames or self.frames) + self.gap

    @property
    def _after(self) -> int:
        return self.frames + self.gap

    def _reference_places(self, clip: ManifestClip) -> int:
        return self.windows.starts_in(clip) + self.frames - (self.reference_frames or self.frames)

    def check(self, clip: ManifestClip) -> None:
        """Refuse a clip in which some window has no reference.

        Raises:
            TooShort: it is shorter than three windows, less a frame.
        """
        needed = self._before + self._after + (self.reference_frames or self.frames) - 1
        if self._reference_places(clip) < self._before + self._after:
            raise TooShort(
                f"{clip.frames} frames with sound for {self.windows.starts_in(clip)} windows, {needed} are"
                f" needed: a target of {self.frames} and a reference that does not overlap it"
            )

    def draw_reference(self, clip: ManifestClip, start: int, random: np.random.Generator) -> int:
        """The first frame of a reference for the window at `start`, anywhere in the clip."""
        places = self._reference_places(clip)
        return other_place(start, places, before=self._before, after=self._after, random=random)

    def farthest(self, clip: ManifestClip, start: int) -> int:
        """The first frame of the reference that is farthest from the window at `start`."""
        last = self._reference_places(clip) - 1
        return last if start < last - start else 0

    def sample(self, clip: ManifestClip, start: int, reference_start: int) -> dict[str, Tensor]:
        """The window at `start`: what `LipSamples` describes, less its number."""
        sample = {
            "target_u8": torch.from_numpy(self.windows.frames_at(clip, start)),  # f h w c
            "reference_u8": torch.from_numpy(self._reference_at(clip, reference_start)),
            "mel": self.windows.mel_at(clip, start).clone(),  # d t
            "is_heard": torch.tensor(1.0),
        }
        if self.hearing is None:
            sample["frame_mel"] = frame_mel(self.windows.features.mel(clip), start, frames=self.frames)
            return sample
        window = range(start, start + self.frames)
        sample["audio"] = self.hearing.tokens(clip, window)  # f n d
        if self.has_states:
            sample["steps"] = self.hearing.steps(clip, window)  # t n d
        return sample

    def _reference_at(self, clip: ManifestClip, start: int) -> NDArray[np.uint8]:
        if self.reference_frames is None:
            return self.windows.frames_at(clip, start)
        return self.windows.frames_at(clip, start, frames=self.reference_frames)


def make_source(
    windows: ClipWindows, hearing: Hearing | None, how: LipWindows, *, has_states: bool
) -> LipSource:
    """The source of windows that are cut as the recipe says."""
    frames = 1 if how.reference == "frame" else None
    return LipSource(windows, hearing, has_states, reference_frames=frames, gap=how.reference_gap_frames)


class LipSamples(Dataset[Sample]):
    """Sample k of a run is a pure function of the seed, the clips and k.

    target_u8     (f h w c)
    reference_u8  (f h w c)  frames of the same clip, none of which is in the target; or one frame (1 h w c)
    mel           (80 t)     the window's speech, for a SyncNet
    is_heard      ()         0 where the sample hears silence instead, else 1
    audio         (f n d)    Whisper tokens of each frame; zeros where the sample hears silence
    frame_mel     (f 80 16)  instead of audio where `source` has no hearing
    steps         (t n d)    Whisper states of the window, if `source` has them
    number        ()         k, from which noise is drawn
    note          about a clip that could not be read and was replaced by the next
    """

    def __init__(self, clips: Sequence[ManifestClip], source: LipSource, recipe: UNetTrainingRecipe) -> None:
        self.windows, self.pictures = recipe.windows, recipe.pictures
        self.clips = tuple(clips) if self.windows.balance == "clip" else people_alike(clips)
        self.source, self.seed, self.samples = source, recipe.seed, recipe.run.samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Sample:
        sample = draw_sample(number, self.clips, self._draw, stream="windows", seed=self.seed)
        return {**sample, "number": torch.tensor(number)}

    def _draw(self, clip: ManifestClip, random: np.random.Generator) -> dict[str, Tensor]:
        """A window anywhere in the clip, and a reference anywhere else.

        Source: the official data set; leaving the audio out is ours, for guidance, as is every change.
        """
        start = int(random.integers(self.source.windows.starts_in(clip)))
        sample = self.source.sample(clip, start, self.source.draw_reference(clip, start, random))
        is_silent = random.random() < self.windows.audio_dropout
        if "audio" in sample:
            audio = sample["audio"]
            if self.windows.audio_noise:
                noise = torch.from_numpy(random.standard_normal(audio.shape, dtype=np.float32))
                audio = audio + self.windows.audio_noise * noise
            sample["audio"] = torch.zeros_like(audio) if is_silent else audio
            sample["is_heard"] = torch.tensor(0.0 if is_silent else 1.0)
        shown = torch.cat([sample["target_u8"], sample["reference_u8"]]).numpy()  # all change alike
        changed = torch.from_numpy(change_pictures(shown, self.pictures, random))
        sample["target_u8"], sample["reference_u8"] = changed.tensor_split([self.source.frames])
        return sample


def people_alike(clips: Sequence[ManifestClip]) -> tuple[ManifestClip, ...]:
    """The clips, those of people with few of them repeated, so that every person comes about equally often.

    A clip comes `MOST_REPEATS` times at most.
    """
    by_person: dict[str, list[ManifestClip]] = {}
    for clip in clips:
        by_person.setdefault(clip.person, []).append(clip)
    most = max(map(len, by_person.values()), default=0)
    return tuple(
        own[k % len(own)] for own in by_person.values() for k in range(min(most, MOST_REPEATS * len(own)))
    )


def frame_mel(mel: Tensor, start: int, *, frames: int) -> Tensor:
    """The 16 columns of `mel` (80 t) around each of so many frames: (f 80 16). The edge repeats.

    Source: Wav2Lip hears 0.2 s, with the frame in the middle.
    """
    centres = torch.arange(start, start + frames) * MEL_STEPS_PER_S // VIDEO_FPS
    columns = centres[:, None] + torch.arange(-FRAME_MEL_BEFORE, MEL_STEPS - FRAME_MEL_BEFORE)  # f t
    return mel[:, columns.clamp(0, mel.shape[1] - 1)].movedim(1, 0)  # f d t
