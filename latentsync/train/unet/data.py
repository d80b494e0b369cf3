"""Windows of frames, reference frames of the same person, and speech: what a lip generator trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.audio.windows import CONTEXT_FRAMES, states_for_frames, states_per_frame
from latentsync.errors import MediaError
from latentsync.events import Report
from latentsync.files import sha256_of
from latentsync.manifest import ManifestClip
from latentsync.media.sound import read_audio
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.models.wav2lip import MEL_BANDS, MEL_STEPS, mel_around
from latentsync.rates import AUDIO_HZ, MEL_COLUMNS_PER_S, STATES_PER_FRAME, VIDEO_FPS, mel_columns
from latentsync.recipe.train_unet import LipWindows, UNetTrainingRecipe
from latentsync.train.augment import change_pictures
from latentsync.train.clips import (
    WHISPER_KIND,
    ClipWindows,
    FeatureFiles,
    Region,
    Sample,
    TooShort,
    choose_decoder,
    decode_clip,
    draw_sample,
    draw_start_elsewhere,
    find_clips,
    is_cached,
)
from latentsync.train.loop import Batch
from latentsync.train.setup import TrainingJob, UsableClips, keep_usable
from latentsync.weights.catalog import COMPACT
from latentsync.weights.read import read_metadata
from latentsync.weights.released import load_whisper

MOST_REPEATS = 16
NAMES_IN_PREPROCESS = {"whisper-tiny": "tiny", COMPACT: COMPACT}  # what `save_features` calls them
LAYERS = 5  # of Whisper tiny whose states are taken: its input and four layers


class CachedStates:
    """Whisper states of a clip on disk; only those that are taken are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as states:
            self.count = int(states.get_shape()[0])

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Tensor) -> Tensor:
        """The states (k n d), float32, at the indices (k,)."""
        first, last = int(indices.min()), int(indices.max())
        with self._opened() as states:
            taken: Tensor = states[first : last + 1]
        return taken[indices - first].float()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, framework="pt") as file:
                yield file.get_slice("whisper")
        except (OSError, SafetensorError) as error:
            raise MediaError(f"'{self.path}': cannot be read ({error})", hint="remove this file") from error


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """Whisper states of clips, in files named by the hash of the clip; `preprocess` may have written them.

    whisper  its name in the recipe
    digest   SHA-256 of its file: Whispers of one name in different folders have different files here
    context_frames  neighbouring frames whose states condition a frame, on either side
    """

    features: FeatureFiles
    whisper: str
    context_frames: int = CONTEXT_FRAMES
    digest: str = ""

    def path_of(self, clip: ManifestClip) -> Path:
        """The file of a clip's states: that of `preprocess` and `train-syncnet`, or one of its own.

        `train-syncnet` uses the bundled Whisper, so only its states are written to the shared file.
        """
        shared = self.features.path_of(clip, WHISPER_KIND)
        made_by = read_metadata(shared).get("whisper") if shared.exists() else COMPACT
        if self.whisper in NAMES_IN_PREPROCESS and made_by == NAMES_IN_PREPROCESS[self.whisper]:
            return shared
        name = "-".join(part for part in (Path(self.whisper).stem, self.digest[:8], "states") if part)
        return self.features.path_of(clip, f"{name}.safetensors")

    def prepare(self, clip: ManifestClip, encoder: WhisperEncoder, lock: Lock) -> None:
        """Compute the states of a clip, unless they exist.

        Args:
            lock: held while the encoder runs, which takes one clip at a time.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip)
        if path.exists():
            return
        samples = read_audio(clip.path, rate_hz=AUDIO_HZ).samples
        with lock:
            states = encode_speech(encoder, samples).half()  # t n d
        kind, metadata = path.name.partition(".")[2], {"whisper": self.whisper}
        self.features.write(clip, kind, partial(save_file, {"whisper": states}, metadata=metadata))

    def tokens(self, clip: ManifestClip, frames: range) -> Tensor:
        """The audio tokens (f n d) of the frames."""
        times_s = [frame / VIDEO_FPS for frame in frames]
        kept = CachedStates(self.path_of(clip))
        return states_for_frames(kept, times_s, context_frames=self.context_frames)

    def states(self, clip: ManifestClip, frames: range) -> Tensor:
        """The Whisper states (t n d) during the frames, two per frame; past the end the last one repeats."""
        kept = CachedStates(self.path_of(clip))
        # The sound may be shorter than the picture.
        during = range(STATES_PER_FRAME * frames.start, STATES_PER_FRAME * frames.stop)
        return kept.take(torch.tensor(during).clamp(max=len(kept) - 1))


@dataclass(frozen=True, slots=True)
class LipSource:
    """Cuts windows from clips.

    audio       None for a generator that takes mel alone
    has_states  whether samples hold the Whisper states of the window too, for a SyncNet that takes those
    reference_frames  of a reference: as many as of a window (None), or 1
    gap         frames that are left out between a window and its reference
    """

    windows: ClipWindows
    audio: AudioFeatures | None
    has_states: bool = False
    reference_frames: int | None = None
    gap: int = 0

    @property
    def frames(self) -> int:
        return self.windows.frames

    @property
    def _before(self) -> int:
        """How far before a window a reference starts at least."""
        return (self.reference_frames or self.frames) + self.gap

    @property
    def _after(self) -> int:
        return self.frames + self.gap

    def _reference_starts(self, clip: ManifestClip) -> int:
        return self.windows.starts_in(clip) + self.frames - (self.reference_frames or self.frames)

    def check(self, clip: ManifestClip) -> None:
        """Refuse a clip in which some window has no reference.

        Raises:
            TooShort: it is shorter than three windows, less a frame.
        """
        needed = self._before + self._after + (self.reference_frames or self.frames) - 1
        if self._reference_starts(clip) < self._before + self._after:
            raise TooShort(
                f"{clip.frames} frames with sound for {self.windows.starts_in(clip)} windows, {needed} are"
                f" needed: a target of {self.frames} and a reference that does not overlap it"
            )

    def draw_reference(self, clip: ManifestClip, start: int, random: np.random.Generator) -> int:
        """The first frame of a reference for the window at `start`, anywhere in the clip."""
        starts = self._reference_starts(clip)
        return draw_start_elsewhere(start, starts, before=self._before, after=self._after, random=random)

    def farthest(self, clip: ManifestClip, start: int) -> int:
        """The first frame of the reference that is farthest from the window at `start`."""
        # Not drawn, because validation must measure the same at every checkpoint.
        last = self._reference_starts(clip) - 1
        return last if start < last - start else 0

    def sample(self, clip: ManifestClip, start: int, reference_start: int) -> dict[str, Tensor]:
        """The window at `start`: what `LipSamples` describes, without its number."""
        sample = {
            "target_u8": torch.from_numpy(self.windows.frames_at(clip, start)),  # f h w c
            "reference_u8": torch.from_numpy(self._reference_at(clip, reference_start)),
            "mel": self.windows.mel_at(clip, start).clone(),  # d t
            "has_speech": torch.tensor(1.0),
        }
        if self.audio is None:
            sample["frame_mel"] = frame_mel(self.windows.features.mel(clip), start, frames=self.frames)
            return sample
        window = range(start, start + self.frames)
        sample["audio"] = self.audio.tokens(clip, window)  # f n d
        if self.has_states:
            sample["states"] = self.audio.states(clip, window)  # t n d
        return sample

    def _reference_at(self, clip: ManifestClip, start: int) -> NDArray[np.uint8]:
        if self.reference_frames is None:
            return self.windows.frames_at(clip, start)
        return self.windows.frames_at(clip, start, frames=self.reference_frames)


def make_source(
    windows: ClipWindows, audio: AudioFeatures | None, table: LipWindows, *, has_states: bool
) -> LipSource:
    """The source of windows that are cut as the recipe's table says."""
    frames = 1 if table.reference == "frame" else None
    return LipSource(windows, audio, has_states, reference_frames=frames, gap=table.reference_gap_frames)


class LipSamples(Dataset[Sample]):
    """Sample k of a run is a pure function of the seed, the clips and k.

    target_u8     (f h w c)
    reference_u8  (f h w c)  frames of the same clip, none of which is in the target; or one frame (1 h w c)
    mel           (80 t)     the window's speech, for a SyncNet
    has_speech    ()         0 where silence replaces the audio, else 1
    audio         (f n d)    audio tokens of each frame; zeros where silence replaces them
    frame_mel     (f 80 16)  instead of audio where `source` has none
    states        (t n d)    Whisper states of the window, if `source` gives them
    number        ()         k, from which noise is drawn
    note          about a clip that could not be read and was replaced by the next
    """

    def __init__(self, clips: Sequence[ManifestClip], source: LipSource, recipe: UNetTrainingRecipe) -> None:
        self.windows, self.pictures = recipe.windows, recipe.pictures
        self.clips = tuple(clips) if self.windows.balance == "clip" else balance_people(clips)
        self.source, self.seed, self.samples = source, recipe.seed, recipe.run.samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Sample:
        sample = draw_sample(number, self.clips, self._draw, stream="windows", seed=self.seed)
        return {**sample, "number": torch.tensor(number)}

    def _draw(self, clip: ManifestClip, random: np.random.Generator) -> dict[str, Tensor]:
        """Draw a window anywhere in the clip, and a reference anywhere else.

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
            sample["has_speech"] = torch.tensor(0.0 if is_silent else 1.0)
        both = torch.cat([sample["target_u8"], sample["reference_u8"]]).numpy()  # all frames change alike
        changed = torch.from_numpy(change_pictures(both, self.pictures, random))
        sample["target_u8"], sample["reference_u8"] = changed.tensor_split([self.source.frames])
        return sample


def balance_people(clips: Sequence[ManifestClip]) -> tuple[ManifestClip, ...]:
    """Repeat the clips of people who have few, so that every person is drawn about equally often.

    A clip is repeated `MOST_REPEATS` times at most.
    """
    by_person: dict[str, list[ManifestClip]] = {}
    for clip in clips:
        by_person.setdefault(clip.person, []).append(clip)
    most = max(map(len, by_person.values()), default=0)
    return tuple(
        own[k % len(own)] for own in by_person.values() for k in range(min(most, MOST_REPEATS * len(own)))
    )


def frame_mel(mel: Tensor, start: int, *, frames: int) -> Tensor:
    """The 16 columns of `mel` (80 t) around each of `frames` frames: (f 80 16)."""
    return mel_around(mel, [frame * MEL_COLUMNS_PER_S // VIDEO_FPS for frame in range(start, start + frames)])


def prepare_clips(
    job: TrainingJob,
    recipe: UNetTrainingRecipe,
    files: Mapping[str, Path],
    syncnet: object,
    accelerator: Accelerator,
    report: Report,
) -> tuple[UsableClips, LipSource]:
    """Find the clips, drop those that are too short, and compute the audio features of the others once.

    Args:
        files: of the weights; without "whisper", samples hold mel alone.
        syncnet: a framewise one is given the Whisper states of each window too.

    Raises:
        MediaError: no clip is left to train on.
    """
    found = find_clips(job.data, held_out=recipe.held_out)
    region = Region(recipe.windows.resolution, is_lower_half=False)
    features = FeatureFiles.beside(job.data, job.output)
    is_decoded = is_cached(job.decoded_cache, [*found[0], *found[1]], region)
    decoder = choose_decoder(job.decoder, accelerator.device.type)
    windows = ClipWindows(recipe.windows.frames, region, features, is_decoded, decoder)
    encoder, audio = None, None
    if "whisper" in files:
        encoder = load_whisper(files["whisper"], device=accelerator.device, dtype=torch.float32)
        name, digest = recipe.weights.whisper, sha256_of(files["whisper"])
        audio = AudioFeatures(features, name, recipe.windows.audio_context_frames, digest)
    has_states = isinstance(syncnet, FramewiseSyncNet)
    source, lock = make_source(windows, audio, recipe.windows, has_states=has_states), Lock()

    def check(clip: ManifestClip) -> None:
        source.check(clip)
        if audio is not None and encoder is not None:
            audio.prepare(clip, encoder, lock)
        if is_decoded:
            decode_clip(clip, region, features)

    usable = keep_usable(job, found, check, accelerator, report, shorter="windows.frames")
    return usable, source


def blank_batch(recipe: UNetTrainingRecipe, syncnet: object, *, device: torch.device) -> Batch:
    """A micro-batch of `LipSamples` with nothing in it, for an estimate of what a training needs.

    Args:
        syncnet: a framewise one is given Whisper states.
    """
    samples, windows = recipe.run.micro_batch_samples, recipe.windows
    frames, side = windows.frames, windows.resolution
    references = 1 if windows.reference == "frame" else frames

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(samples, *shape, dtype=dtype, device=device)

    batch = {
        "target_u8": zeros(frames, side, side, 3, dtype=torch.uint8),
        "reference_u8": zeros(references, side, side, 3, dtype=torch.uint8),
        "mel": zeros(MEL_BANDS, mel_columns(frames)),
        "has_speech": zeros(),
        "number": torch.arange(samples),  # on the CPU, because noise is drawn from its values
    }
    if recipe.generator == "wav2lip":
        return batch | {"frame_mel": zeros(frames, MEL_BANDS, MEL_STEPS)}
    if isinstance(syncnet, FramewiseSyncNet):
        config = syncnet.config
        states = zeros(frames * STATES_PER_FRAME, config.whisper_states, config.whisper_dim)
        batch["states"] = states
    tokens = LAYERS * states_per_frame(windows.audio_context_frames)
    return batch | {"audio": zeros(frames, tokens, recipe.network.audio_dim)}
