"""Processed clips: which are trained on, their features, their frames, and which clip a sample comes from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.audio.mel import mel_spectrogram, mel_window
from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.errors import LatentSyncError, MediaError
from latentsync.events import Progress, Report
from latentsync.files import sha256_of, whole_or_nothing
from latentsync.manifest import ManifestClip, features_path, read_manifest
from latentsync.media.decord_windows import has_decord, read_window_by_decord
from latentsync.media.read import read_frames, read_window
from latentsync.media.sound import read_audio
from latentsync.rates import AUDIO_HZ, MEL_COLUMNS_PER_S, VIDEO_FPS, first_mel_column, mel_columns
from latentsync.runtime import Seeds
from latentsync.weights.named import BUNDLED
from latentsync.weights.released import load_whisper

MEL_KIND = "mel.safetensors"
MOST_REPLACEMENTS = 8  # clips that fail in a row before the run gives up
WHISPER_KIND = "whisper.safetensors"
MADE_BY = {"whisper": "compact"}  # the bundled Whisper, as `preprocess` names it

Sample = dict[str, Tensor | str]
SHORTER_PAIRS = "network.frames or negatives.min_distance_frames"
RUN_PREPROCESS = "make the clips first with `latentsync preprocess RAW OUT`, then give OUT with --data"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A clip that is not trained on: `reason` is a fixed word, `detail` says more."""

    name: str
    reason: str
    detail: str


def count_starts(clip_frames: int, clip_columns: int, *, frames: int) -> int:
    """How many first frames a window of `frames` can have in a clip with that many frames and mel columns.

    >>> count_starts(32, 103, frames=16)
    17
    """
    # Frame s begins in mel column 80 s // 25, and all columns must exist: as officially, none is padded.
    by_sound = (clip_columns - mel_columns(frames) + 1) * VIDEO_FPS
    return max(0, min(clip_frames - frames + 1, -(-by_sound // MEL_COLUMNS_PER_S)))


def choose_evenly(clips: Sequence[ManifestClip], count: int) -> list[ManifestClip]:
    """`count` of the clips, spread over the whole list.

    >>> choose_evenly("abcdefgh", 4)
    ['a', 'c', 'e', 'g']
    """
    count = min(count, len(clips))
    return [clips[number * len(clips) // count] for number in range(count)]


@dataclass(frozen=True, slots=True)
class FeatureFiles:
    """Files computed from clips, kept as `preprocess` does: by the hash of a clip's content, not its name."""

    folder: Path

    @classmethod
    def beside(cls, data: Path, output: Path) -> FeatureFiles:
        """Under the data, where all runs share them; under the output where the data cannot be written to."""
        folder = data if data.is_dir() else data.parent
        return cls(folder if os.access(folder, os.W_OK) else output)

    def path_of(self, clip: ManifestClip, kind: str) -> Path:
        """The path of the feature called `kind`, such as "mel.safetensors", of a clip."""
        if clip.sha256 is None:
            raise ValueError(f"{clip.name} has no hash; find_clips gives every clip its own")
        path = features_path(self.folder, clip.sha256)
        return path.with_name(f"{path.name}.{kind}")

    def write(self, clip: ManifestClip, kind: str, write: Callable[[Path], None]) -> None:
        """Keep what `write` writes to the path it is given; the file appears whole or not at all."""
        path = self.path_of(clip, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as part:
            write(part)

    def mel(self, clip: ManifestClip) -> Tensor:
        """The mel spectrogram (80 t) of a clip's speech, computed once.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip, MEL_KIND)
        if not path.exists():
            mel = mel_spectrogram(read_audio(clip.path, rate_hz=AUDIO_HZ).samples)
            self.write(clip, MEL_KIND, partial(save_file, {"mel": mel}))
        return _load_mel(path)

    def whisper(self, clip: ManifestClip) -> Tensor:
        """The bundled Whisper's states of a clip (t n d) float16, 50 a second, computed once.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip, WHISPER_KIND)
        if not path.exists():
            samples = read_audio(clip.path, rate_hz=AUDIO_HZ).samples
            states = encode_speech(_bundled_whisper(), samples).half()
            self.write(clip, WHISPER_KIND, partial(save_file, {"whisper": states}, metadata=MADE_BY))
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata() != MADE_BY:
                    raise MediaError(
                        f"'{path}': was computed by another Whisper than the bundled one",
                        hint='preprocess with features.whisper = "compact", or remove this file',
                    )
                kept: Tensor = file.get_tensor("whisper")
        except (OSError, SafetensorError) as error:
            raise MediaError(f"'{path}': cannot be read ({error})", hint="remove this file") from error
        return kept


@lru_cache(maxsize=256)  # several windows of a sample come from one clip
def _load_mel(path: Path) -> Tensor:
    try:
        mel: Tensor = load_file(path)["mel"]
    except (OSError, SafetensorError, KeyError) as error:
        raise MediaError(f"'{path}': cannot be read ({error})", hint="remove this file") from error
    return mel


@lru_cache(maxsize=1)
def _bundled_whisper() -> WhisperEncoder:
    return load_whisper(BUNDLED / "whisper-tiny-en.safetensors", device="cpu", dtype=torch.float32)


def find_clips(data: Path, *, held_out: Sequence[str]) -> tuple[list[ManifestClip], list[ManifestClip]]:
    """The clips of `data` to train on, and those to validate on.

    Args:
        data: an output folder of `preprocess`, its manifest, or a folder of processed clips.
        held_out: name patterns of the clips or people to validate on; without any, the manifest's own split.

    Raises:
        MediaError: there is no such data, or nothing is left to train on.
    """
    if not data.exists():
        raise MediaError(f"'{data}': there is no data here", hint=RUN_PREPROCESS)
    clips = [_with_hash(clip) for clip in read_manifest(data)]
    if not clips:
        raise MediaError(f"'{data}': holds no clip", hint=RUN_PREPROCESS)

    def is_held_out(clip: ManifestClip) -> bool:
        names = (clip.name, Path(clip.name).stem, clip.person)
        if not held_out:
            return clip.split == "validation"
        return any(fnmatch(name, pattern) for name in names for pattern in held_out)

    training = [clip for clip in clips if not is_held_out(clip)]
    if not training:
        raise MediaError(
            f"'{data}': all {len(clips)} clips are held out for validation",
            hint="hold out fewer people with held_out, or add clips",
        )
    return training, [clip for clip in clips if is_held_out(clip)]


def _with_hash(clip: ManifestClip) -> ManifestClip:
    """The clip with the hash of its content, which a folder without a manifest does not know."""
    if clip.sha256 is not None:
        return clip
    return replace(clip, sha256=sha256_of(clip.path))


def check_clips(
    clips: Sequence[ManifestClip], check: Callable[[ManifestClip], None], *, workers: int, report: Report
) -> list[Dropped]:
    """Run `check` on every clip and return those that it refused, with the reason.

    Args:
        check: prepares a clip, and raises LatentSyncError or ValueError if it cannot be used.
        workers: threads; decoding and mel release the interpreter lock.
    """

    def refused(clip: ManifestClip) -> Dropped | None:
        try:
            check(clip)
        except (LatentSyncError, ValueError, FileNotFoundError) as error:
            reason = "too_short" if isinstance(error, TooShort) else "unreadable"
            return Dropped(clip.name, reason, str(error))
        return None

    dropped = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, drop in enumerate(pool.map(refused, clips), 1):
            report(Progress("checking clips", done, len(clips), "clips"))
            if drop is not None:
                dropped.append(drop)
    return dropped


class TooShort(ValueError):
    """A clip holds fewer windows than training needs."""


def refuse_nothing_left(
    data: Path, kept: int, dropped: Iterable[Dropped], *, shorter: str = SHORTER_PAIRS
) -> None:
    """Refuse data of which every clip was dropped; the message counts the reasons.

    Args:
        shorter: what in the recipe to lower, so that shorter clips can be used.

    Raises:
        MediaError: `kept` is 0.
    """
    if kept:
        return
    dropped = list(dropped)
    counts = Counter(drop.reason for drop in dropped)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    first = f"; the first: {dropped[0].name}: {dropped[0].detail}" if dropped else ""
    raise MediaError(
        f"'{data}': no clip is left to train on ({reasons or 'there was none'}){first}",
        hint=f"lower {shorter}, or preprocess longer clips",
    )


def fingerprint(clips: Iterable[ManifestClip]) -> str:
    """A short hash of the clips' contents, in their order: another one means other data."""
    digest = hashlib.sha256("\n".join(str(clip.sha256) for clip in clips).encode())
    return digest.hexdigest()[:16]


def clip_of_sample(number: int, *, clips: int, seed: int) -> int:
    """The clip, of `clips`, that sample `number` comes from: each once per epoch, in a new random order.

    >>> sorted(clip_of_sample(k, clips=5, seed=1) for k in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    epoch, index = divmod(number, clips)
    return int(_order(clips, epoch, seed)[index])


def draw_sample(
    number: int,
    clips: Sequence[ManifestClip],
    draw: Callable[[ManifestClip, np.random.Generator], Mapping[str, Tensor | str]],
    *,
    stream: str,
    seed: int,
) -> Sample:
    """Sample `number` of the run: what `draw` makes of its clip, or of the next one if that cannot be used.

    Args:
        draw: raises MediaError or ValueError for a clip that cannot be used.
        stream: name of the random stream, which starts again with every clip that is tried.

    Returns:
        What `draw` returned, and under "note" which clips were replaced.

    Raises:
        MediaError: `MOST_REPLACEMENTS` clips in a row cannot be read.
    """
    notes = []
    first = clip_of_sample(number, clips=len(clips), seed=seed)
    for attempt in range(MOST_REPLACEMENTS):
        clip = clips[(first + attempt) % len(clips)]
        try:
            sample = draw(clip, random_of_sample(number, f"{stream}/{attempt}", seed=seed))
        except (MediaError, ValueError) as error:
            notes.append(f"{clip.name} is skipped from now on: {error}")
            continue
        return {**sample, "note": "\n".join(notes)}
    raise MediaError(
        f"{MOST_REPLACEMENTS} clips in a row cannot be read; the last: {notes[-1]}",
        hint="check that the data still exists and is complete",
    )


@lru_cache(maxsize=2)  # samples that are read ahead may be of the next epoch
def _order(clips: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(clips, generator=Seeds(seed).generator(f"shuffle/{epoch}"))


def random_of_sample(number: int, name: str, *, seed: int) -> np.random.Generator:
    """The random stream called `name` of sample `number` of the run."""
    return np.random.default_rng(Seeds(seed).generator(f"{name}/{number}").initial_seed())


DecodedCache = Literal["auto", "yes", "no"]
Decoder = Literal["pyav", "decord"]
CACHE_BYTES = 8_000_000_000  # "auto" decodes all clips beforehand up to this size


class SeenPart(Protocol):
    """The part of an aligned crop that a network takes, at its size; `kind` names files of decoded clips."""

    @property
    def frame_bytes(self) -> int: ...

    @property
    def kind(self) -> str: ...

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class Region:
    """All or the lower half of an aligned crop, after it was resized to `resolution` a side."""

    resolution: int
    is_lower_half: bool

    @property
    def rows(self) -> int:
        return self.resolution // 2 if self.is_lower_half else self.resolution

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.resolution * 3

    @property
    def kind(self) -> str:
        """The name under which decoded clips are kept."""
        return f"decoded-{self.resolution}-{'lower' if self.is_lower_half else 'whole'}.npy"

    def cut(self, frame_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one crop (h w c) and cut the region from it."""
        side = self.resolution
        if frame_u8.shape[:2] != (side, side):
            # Shrinking, cubic interpolation would skip pixels; averaging takes all of them.
            method = cv2.INTER_AREA if frame_u8.shape[0] > side else cv2.INTER_CUBIC
            frame_u8 = np.asarray(cv2.resize(frame_u8, (side, side), interpolation=method), np.uint8)
        return frame_u8[side - self.rows :]


def decode_clip(clip: ManifestClip, region: SeenPart, features: FeatureFiles) -> None:
    """Decode a whole clip once and keep its region (f h w c), to be read later without decoding.

    Raises:
        MediaError: the clip cannot be decoded, or not all of it.
    """
    if features.path_of(clip, region.kind).exists():
        return
    frames = np.stack([region.cut(frame.rgb_u8) for frame in read_frames(clip.path)])  # f h w c
    if len(frames) < clip.frames:
        raise MediaError(f"{len(frames)} of {clip.frames} frames can be decoded", hint="preprocess it again")
    features.write(clip, region.kind, partial(_save_array, frames))


def _save_array(values: NDArray[np.uint8], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def is_cached(choice: DecodedCache, clips: Iterable[ManifestClip], region: SeenPart) -> bool:
    """Whether clips are to be decoded beforehand: always, never, or when they fit `CACHE_BYTES`."""
    if choice != "auto":
        return choice == "yes"
    return sum(clip.frames for clip in clips) * region.frame_bytes <= CACHE_BYTES


def choose_decoder(choice: Literal["auto", "pyav", "decord"], device_type: str) -> Decoder:
    """What decodes windows: "auto" is decord, where it is installed, for a card that waits for data."""
    if choice == "auto":
        return "decord" if device_type == "cuda" and has_decord() else "pyav"
    return choice


def read_pictures(
    clip: ManifestClip,
    start: int,
    frames: int,
    region: SeenPart,
    features: FeatureFiles | None,
    *,
    decoder: Decoder = "pyav",
) -> NDArray[np.uint8]:
    """Frames `start` to `start + frames` of a clip, cut to `region`: (f h w c).

    Args:
        features: where `decode_clip` wrote the clip; None decodes it now.
        decoder: what decodes it now.

    Raises:
        MediaError: the frames cannot be read.
    """
    if features is not None:
        path = features.path_of(clip, region.kind)
        try:
            decoded = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(f"'{path}': cannot be read ({error})", hint="remove this file") from error
        # Copied: the file is mapped read-only, and frames may be changed.
        return np.array(decoded[start : start + frames])
    read = read_window_by_decord if decoder == "decord" else read_window
    window = read(clip.path, range(start, start + frames))
    return np.stack([region.cut(frame) for frame in window])  # f h w c


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """Cuts windows of `frames` frames from clips. `features` has the decoded frames too if `is_decoded`."""

    frames: int
    region: Region
    features: FeatureFiles
    is_decoded: bool
    decoder: Decoder = "pyav"

    def starts_in(self, clip: ManifestClip) -> int:
        """How many first frames a window of the clip can have."""
        return count_starts(clip.frames, self.features.mel(clip).shape[1], frames=self.frames)

    def frames_at(self, clip: ManifestClip, start: int, *, frames: int | None = None) -> NDArray[np.uint8]:
        """The frames (f h w c) of the window at `start`, or `frames` of them from there on."""
        features = self.features if self.is_decoded else None
        return read_pictures(clip, start, frames or self.frames, self.region, features, decoder=self.decoder)

    def mel_at(self, clip: ManifestClip, start: int, *, late_columns: int = 0) -> Tensor:
        """The mel (80 t) of the window at `start`, moved by `late_columns` as far as the clip reaches."""
        mel = self.features.mel(clip)
        window = mel_window(mel, start, frames=self.frames)
        if not late_columns:
            return window
        columns = window.shape[1]
        first = first_mel_column(start) + late_columns
        first = min(max(0, first), mel.shape[1] - columns)
        return mel[:, first : first + columns]


def draw_start_elsewhere(
    start: int, starts: int, *, before: int, after: int, random: np.random.Generator
) -> int:
    """Draw one of `starts`, at least `before` ahead of `start` or `after` behind it, all equally likely."""
    ahead = max(0, start - before + 1)
    behind = max(0, starts - start - after)
    drawn = int(random.integers(ahead + behind))
    # Skipping the starts in between takes one draw; rejecting them would take an unknown number.
    return drawn if drawn < ahead else start + after + drawn - ahead
