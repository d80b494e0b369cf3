"""Processed clips as training sees them: which there are, their speech as mel, the places of windows."""

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

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.audio.mel import MEL_STEPS_PER_S, RATE_HZ, mel_spectrogram
from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.errors import LatentSyncError, MediaError
from latentsync.events import Progress, Report
from latentsync.manifest import ManifestClip, features_path, read_manifest
from latentsync.media.sound import read_audio
from latentsync.runtime import Seeds
from latentsync.weights.models import BUNDLED
from latentsync.weights.released import load_whisper

VIDEO_FPS = 25
MEL_KIND = "mel.safetensors"
MOST_REPLACEMENTS = 8  # clips that fail one after the other before the run gives up
WHISPER_KIND = "whisper.safetensors"
HEARD_BY = {"whisper": "compact"}

Sample = dict[str, Tensor | str]
SHORTER_PAIRS = "network.frames or negatives.min_distance_frames"
RUN_PREPROCESS = "make the clips first with `latentsync preprocess RAW OUT`, then give OUT with --data"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A clip that is not trained on: `reason` is a fixed word, `detail` says more."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Windows:
    """Length of the windows that are cut: `frames` at 25 fps, which `mel_steps` columns of mel belong to."""

    frames: int
    mel_steps: int

    def starts_in(self, clip_frames: int, mel_columns: int) -> int:
        """How many first frames a window can have, counted from frame 0.

        >>> Windows(16, 52).starts_in(32, 103)
        17
        """
        by_sound = (mel_columns - self.mel_steps + 1) * VIDEO_FPS
        return max(0, min(clip_frames - self.frames + 1, -(-by_sound // MEL_STEPS_PER_S)))


@dataclass(frozen=True, slots=True)
class Features:
    """Files computed from clips, kept as `preprocess` does: by the hash of a clip's content, not its name."""

    place: Path

    @classmethod
    def beside(cls, data: Path, output: Path) -> Features:
        """Under the data, where all runs share them; under the output where the data cannot be written to."""
        place = data if data.is_dir() else data.parent
        return cls(place if os.access(place, os.W_OK) else output)

    def path_of(self, clip: ManifestClip, kind: str) -> Path:
        """Where the feature called `kind`, such as "mel.safetensors", of a clip is kept."""
        assert clip.sha256 is not None, "find_clips gives every clip its hash"
        place = features_path(self.place, clip.sha256)
        return place.with_name(f"{place.name}.{kind}")

    def write(self, clip: ManifestClip, kind: str, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into the file it is given; it appears whole or not at all."""
        path = self.path_of(clip, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            write(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def mel(self, clip: ManifestClip) -> Tensor:
        """The mel spectrogram (80 t) of a clip's speech, computed once.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip, MEL_KIND)
        if not path.exists():
            heard = mel_spectrogram(read_audio(clip.path, rate_hz=RATE_HZ).samples)
            self.write(clip, MEL_KIND, lambda part: save_file({"mel": heard}, part))
        return _load_mel(path)

    def whisper(self, clip: ManifestClip) -> Tensor:
        """What the bundled Whisper hears in a clip (t n d) float16, 50 states a second, computed once.

        Raises:
            MediaError: the clip has no sound that can be read.
        """
        path = self.path_of(clip, WHISPER_KIND)
        if not path.exists():
            heard = encode_speech(_bundled_whisper(), read_audio(clip.path, rate_hz=RATE_HZ).samples).half()
            self.write(clip, WHISPER_KIND, partial(save_file, {"whisper": heard}, metadata=HEARD_BY))
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata() != HEARD_BY:
                    raise MediaError(
                        f"'{path}': was heard by another Whisper than the bundled one",
                        hint='preprocess with features.whisper = "compact", or remove this file',
                    )
                states: Tensor = file.get_tensor("whisper")
        except (OSError, SafetensorError) as error:
            raise MediaError(f"'{path}': cannot be read ({error})", hint="remove this file") from error
        return states


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
        data: an out folder of `preprocess`, its manifest, or a folder of processed clips.
        held_out: name patterns of the clips or people to validate on; without any, the manifest says which.

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
    with clip.path.open("rb") as file:
        return replace(clip, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def check_clips(
    clips: Sequence[ManifestClip], check: Callable[[ManifestClip], None], *, workers: int, report: Report
) -> list[Dropped]:
    """Run `check` on every clip and say which of them it refused, and why.

    Args:
        check: prepares a clip, and raises MediaError, ValueError or OSError if it is of no use.
        workers: threads; decoding and mel leave the interpreter to others.
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
        for done, answer in enumerate(pool.map(refused, clips), 1):
            report(Progress("checking clips", done, len(clips), "clips"))
            if answer is not None:
                dropped.append(answer)
    return dropped


class TooShort(ValueError):
    """A clip holds fewer windows than training needs."""


def refuse_nothing_left(
    data: Path, kept: int, dropped: Iterable[Dropped], *, shorter: str = SHORTER_PAIRS
) -> None:
    """Raise MediaError when every clip was dropped, saying how many for which reason.

    Args:
        shorter: what in the recipe to lower, so that shorter clips do.

    Raises:
        MediaError: `kept` is 0.
    """
    if kept:
        return
    dropped = list(dropped)
    counts = Counter(drop.reason for drop in dropped)
    said = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    first = f"; the first: {dropped[0].name}: {dropped[0].detail}" if dropped else ""
    raise MediaError(
        f"'{data}': no clip is left to train on ({said or 'there was none'}){first}",
        hint=f"lower {shorter}, or preprocess longer clips",
    )


def fingerprint(clips: Iterable[ManifestClip]) -> str:
    """A short name for what the clips hold, in their order: another one means other data."""
    digest = hashlib.sha256("\n".join(str(clip.sha256) for clip in clips).encode())
    return digest.hexdigest()[:16]


def clip_of_sample(number: int, *, clips: int, seed: int) -> int:
    """Which of so many clips sample `number` of the run comes from: every clip once an epoch, shuffled anew.

    >>> sorted(clip_of_sample(k, clips=5, seed=1) for k in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    epoch, place = divmod(number, clips)
    return int(_order(clips, epoch, seed)[place])


def draw_sample(
    number: int,
    clips: Sequence[ManifestClip],
    draw: Callable[[ManifestClip, np.random.Generator], Mapping[str, Tensor | str]],
    *,
    stream: str,
    seed: int,
) -> Sample:
    """Sample `number` of the run: what `draw` makes of its clip, or of the next one where that is of no use.

    Args:
        draw: raises MediaError or ValueError for a clip that cannot be used.
        stream: name of the random stream, which begins anew with every clip that is tried.

    Returns:
        What `draw` gave, and under "note" which clips were replaced.

    Raises:
        MediaError: so many clips one after the other cannot be read.
    """
    notes = []
    place = clip_of_sample(number, clips=len(clips), seed=seed)
    for attempt in range(MOST_REPLACEMENTS):
        clip = clips[(place + attempt) % len(clips)]
        try:
            sample = draw(clip, random_of_sample(number, f"{stream}/{attempt}", seed=seed))
        except (MediaError, ValueError) as error:
            notes.append(f"{clip.name} is left out from here on: {error}")
            continue
        return {**sample, "note": "\n".join(notes)}
    raise MediaError(
        f"{MOST_REPLACEMENTS} clips one after the other cannot be read; the last: {notes[-1]}",
        hint="check that the data is still there and whole",
    )


@lru_cache(maxsize=2)
def _order(clips: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(clips, generator=Seeds(seed).generator(f"shuffle/{epoch}"))


def random_of_sample(number: int, name: str, *, seed: int) -> np.random.Generator:
    """The random stream called `name` of sample `number` of the run."""
    return np.random.default_rng(Seeds(seed).generator(f"{name}/{number}").initial_seed())
