"""How well lips and speech fit, and by how much one is early: by SyncNet v2 or by our own SyncNet."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentsync.audio.mel import mel_spectrogram, mel_window
from latentsync.audio.mfcc import MFCC_STEPS_PER_S, mfcc
from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.axes import expect_axes
from latentsync.errors import MediaError, WeightsError
from latentsync.faces.align import WINDOW_HEIGHT, WINDOW_WIDTH
from latentsync.files import sha256_of
from latentsync.metrics.metric import ClipMetric, MetricSetup, Missing, ScoredClip, Value
from latentsync.models.framewise import FramewiseSyncNet, cut_region
from latentsync.models.syncnet import SyncNet, stack_frames
from latentsync.models.syncnet_v2 import CLIP_FRAMES, PICTURE_PX, SPEECH_STEPS, SyncNetV2
from latentsync.rates import AUDIO_HZ, MEL_COLUMNS_PER_S, STATES_PER_FRAME, VIDEO_FPS

BATCH_WINDOWS = 64
LEAST_WINDOWS = 4
V2, COMPACT = "syncnet-v2", "syncnet-compact"
BUNDLED_SYNCNET = Path(__file__).parent.parent / "bundled" / "syncnet.safetensors"
# A second SyncNet, on other people and by another recipe, that teaches no model; not part of every package.
INDEPENDENT_SYNCNET = BUNDLED_SYNCNET.with_name("judge.safetensors")

V2_PADDING_GREY = 110  # of syncnet_python
V2_PICTURE_SIDE = 1 + 2 * 0.4 + 1  # in half faces: from the top of the face to 0.8 of a half below it
# Middle and side of the square around a face, in the units of the template. Ours, because the crop does not
# say what S3FD would have found: the median of MTCNN's boxes in 101 frames of many people, made symmetrical.
FACE_MIDDLE, FACE_SIDE = (37.5, 40.5), 93.0


@dataclass(frozen=True, slots=True)
class SyncScore:
    """How lips and speech fit.

    offset_frames  by how many frames at 25 fps the speech must be delayed to fit; negative: it is late
    confidence     how much nearer the best shift is than the median one, in units of the judge's distance
    distance       mean distance at the best shift; 0 is perfect
    judge          which judge measured
    """

    offset_frames: int
    confidence: float
    distance: float
    judge: str


class SyncJudge(Protocol):
    """Embeds crops and speech as vectors that are near each other where they fit."""

    @property
    def name(self) -> str:
        """What `SyncScore.judge` states."""

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        """Aligned square crops (f h w c) at 25 fps to vectors (windows d)."""

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        """16 kHz speech (n,) to vectors (windows d), one for each frame at 25 fps that starts a window."""

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        """The distance (windows,) of each row of `visual` to the same row of `audio`."""


class CosineJudge:
    """A judge whose vectors have length 1: their distance is 1 - cosine."""

    __slots__ = ()
    name: ClassVar[str] = COMPACT

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return 1 - (visual * audio).sum(1)


@dataclass(slots=True)
class BundledJudge(CosineJudge):
    """The bundled SyncNet, which looks at each frame once. Distances are 0..2."""

    syncnet: FramewiseSyncNet
    whisper: WhisperEncoder
    device: torch.device

    @torch.inference_mode()
    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        config = self.syncnet.config

        def embed(crops_u8: NDArray[np.uint8]) -> Tensor:
            images = torch.from_numpy(crops_u8).to(self.device).movedim(-1, 1)
            region = cut_region(images, config) / 127.5 - 1  # f c h w
            return self.syncnet.embed_frames(region.transpose(0, 1)[None])[0]

        return _slide(crops_u8, config.frames, embed)

    @torch.inference_mode()
    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        states = encode_speech(self.whisper, samples)  # t n d
        needed = self.syncnet.config.frames * STATES_PER_FRAME
        if len(states) < needed:
            return torch.empty(0, 0)
        return self.syncnet.embed_speech(states[None].to(self.device))[0]


@dataclass(slots=True)
class SyncNetJudge(CosineJudge):
    """A SyncNet that you trained. Distances are 0..1; crops of another size are resized."""

    syncnet: SyncNet
    device: torch.device

    @torch.inference_mode()
    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        config = self.syncnet.config

        def embed(crops_u8: NDArray[np.uint8]) -> Tensor:
            images = torch.from_numpy(_resized(crops_u8, config.resolution)).to(self.device)
            images = images.movedim(-1, 1).float() / 127.5 - 1  # f c h w
            video_pm1 = images.unfold(0, config.frames, 1).movedim(-1, 2)  # b c f h w
            return self.syncnet.embed_frames(stack_frames(video_pm1, config))

        return _slide(crops_u8, config.frames, embed)

    @torch.inference_mode()
    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        config = self.syncnet.config
        mel = mel_spectrogram(samples)

        def embed(windows: range) -> Tensor:
            mels = torch.stack([mel_window(mel, frame, frames=config.frames) for frame in windows])
            return self.syncnet.embed_speech(mels[:, None].to(self.device))

        last_column = mel.shape[1] - config.mel_steps
        return _in_batches(-(-VIDEO_FPS * (last_column + 1) // MEL_COLUMNS_PER_S), embed)


@dataclass(slots=True)
class SyncNetV2Judge:
    """SyncNet v2, as papers use it. The distance is Euclidean, between raw vectors.

    Source: `syncnet_python`: pictures of 224 px in BGR, and five windows fewer than there are frames.
    """

    network: SyncNetV2
    device: torch.device
    name: str = V2

    @torch.inference_mode()
    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        def embed(crops_u8: NDArray[np.uint8]) -> Tensor:
            images = torch.from_numpy(np.stack([v2_picture(crop) for crop in crops_u8])).to(self.device)
            clips = images.movedim(-1, 1).float().unfold(0, CLIP_FRAMES, 1).movedim(-1, 2)  # b c f h w
            return self.network.embed_clips(clips)

        # `syncnet_python` takes five windows fewer than there are frames, one fewer than would fit.
        return _slide(crops_u8[:-1], CLIP_FRAMES, embed)

    @torch.inference_mode()
    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        cepstra = torch.from_numpy(mfcc(samples)).T  # d t
        steps = MFCC_STEPS_PER_S // VIDEO_FPS

        def embed(windows: range) -> Tensor:
            chunks = [cepstra[:, steps * frame : steps * frame + SPEECH_STEPS] for frame in windows]
            return self.network.embed_speech(torch.stack(chunks)[:, None].to(self.device))

        # Five fewer than frames of 640 samples, as in `syncnet_python`.
        return _in_batches(len(samples) * VIDEO_FPS // AUDIO_HZ - CLIP_FRAMES, embed)

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return functional.pairwise_distance(visual, audio)


def score_sync(
    judge: SyncJudge,
    crops_u8: NDArray[np.uint8],
    samples: NDArray[np.float32],
    *,
    max_shift_frames: int = 15,
) -> SyncScore:
    """Slide the speech along the frames and find where it fits best, and how clearly.

    Args:
        crops_u8: (f h w c) aligned square crops, RGB at 25 fps.
        samples: (n,) 16 kHz speech that begins with the first frame.
        max_shift_frames: how far it is slid either way.

    Raises:
        MediaError: the clip is too short for the judge.

    Source: `syncnet_python`, with which the published confidences were measured.
    """
    visual, audio = judge.embed_crops(crops_u8), judge.embed_speech(samples)
    if min(len(visual), len(audio)) < LEAST_WINDOWS:
        raise MediaError(
            f"{len(crops_u8)} frames and {len(samples) / AUDIO_HZ:.2f} s of speech give"
            f" {min(len(visual), len(audio))} windows, too few to tell whether they fit",
            hint="give a clip of at least one second",
        )
    distances = distance_per_offset(judge, visual, audio, max_shift_frames=max_shift_frames)
    # The median, not the mean, is what the published confidences subtract from.
    offset_frames = min(distances, key=lambda offset: distances[offset])
    nearest = distances[offset_frames]
    return SyncScore(offset_frames, statistics.median(distances.values()) - nearest, nearest, judge.name)


def distance_per_offset(
    judge: SyncJudge, visual: Tensor, audio: Tensor, *, max_shift_frames: int
) -> dict[int, float]:
    """The mean distance for each offset, with the meaning of `SyncScore.offset_frames`.

    At the edges SyncNet v2 compares with zero vectors, as the published confidences do. Every other judge
    compares only windows that both exist, and leaves out offsets at which fewer than half of them do: zeros
    would make wide shifts look worse than they are.
    """
    shorter = min(len(visual), len(audio))
    first = 0  # row of `audio` that belongs to the first row of `visual`
    if judge.name == V2:
        visual, audio = (
            visual[:shorter],
            functional.pad(audio[:shorter], (0, 0, max_shift_frames, max_shift_frames)),
        )
        first = max_shift_frames
    distances = {}
    for offset in range(max_shift_frames, -max_shift_frames - 1, -1):
        shift = first - offset
        rows = range(max(0, -shift), min(len(visual), len(audio) - shift))
        if 2 * len(rows) >= shorter:
            pairs = visual[rows.start : rows.stop], audio[rows.start + shift : rows.stop + shift]
            distances[offset] = float(judge.distances(*pairs).mean())
    return distances


def choose_judge(
    name: Literal["auto", "syncnet-v2", "compact"], *, device: torch.device | str = "cpu"
) -> SyncJudge:
    """The judge called `name`; "auto" is SyncNet v2 if its weights are in the cache, otherwise ours.

    Raises:
        WeightsError: its weights are missing or damaged.
    """
    from latentsync.weights.catalog import find_entry
    from latentsync.weights.hub import is_present, need
    from latentsync.weights.judges import load_syncnet, syncnet_v2_from_released
    from latentsync.weights.named import BUNDLED

    if name == V2 or (name == "auto" and is_present(find_entry(V2))):
        return SyncNetV2Judge(syncnet_v2_from_released(need(V2), device=device), torch.device(device))
    return own_judge(load_syncnet(BUNDLED / "syncnet.safetensors", device=device), torch.device(device))


def bundled_judge(*, device: torch.device | str = "cpu") -> BundledJudge:
    """Our own SyncNet, which says how lips and speech fit in every window.

    Raises:
        WeightsError: the package is damaged.
    """
    judge = choose_judge("compact", device=device)
    if not isinstance(judge, BundledJudge):
        raise WeightsError(f"{BUNDLED_SYNCNET} is another network", hint="install the package again")
    return judge


def own_judge(syncnet: SyncNet | FramewiseSyncNet, device: torch.device) -> SyncJudge:
    """A judge out of a SyncNet of either kind; a framewise one gets the bundled Whisper encoder."""
    from latentsync.weights.named import BUNDLED
    from latentsync.weights.released import load_whisper

    if isinstance(syncnet, SyncNet):
        return SyncNetJudge(syncnet, device)
    encoder = load_whisper(BUNDLED / "whisper-tiny-en.safetensors", device=device, dtype=torch.float32)
    return BundledJudge(syncnet, encoder, device)


def v2_picture(crop_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay an aligned crop (h w c) RGB into the picture (224 224 c) BGR that SyncNet v2 was trained on.

    The face is at the same position in every aligned crop, so its position in the picture is fixed too. The
    crop gets back the proportions of the upright face box, 75:100; everything around it is grey.

    Source: the picture around a face box is that of `syncnet_python` with a crop scale of 0.4; the box is
    ours (see `FACE_SIDE`), so confidences differ somewhat from those measured around S3FD's boxes.
    """
    half = FACE_SIDE / 2
    zoom = PICTURE_PX / (V2_PICTURE_SIDE * half)
    left = round(zoom * (V2_PICTURE_SIDE / 2 * half - FACE_MIDDLE[0]))
    top = round(zoom * (half - FACE_MIDDLE[1]))
    size = (round(zoom * WINDOW_WIDTH), round(zoom * WINDOW_HEIGHT))
    picture = np.full((PICTURE_PX, PICTURE_PX, 3), V2_PADDING_GREY, np.uint8)
    window = cv2.resize(crop_u8, size, interpolation=cv2.INTER_AREA)
    picture[top : top + size[1], left : left + size[0]] = window[..., ::-1]
    return picture


def _resized(crops_u8: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    if crops_u8.shape[1:3] == (side_px, side_px):
        return crops_u8
    size = (side_px, side_px)
    return np.stack([cv2.resize(crop, size, interpolation=cv2.INTER_AREA) for crop in crops_u8])


def _slide(crops_u8: NDArray[np.uint8], frames: int, embed: Callable[[NDArray[np.uint8]], Tensor]) -> Tensor:
    """Embed the windows of `frames` frames that begin at each crop (f h w c).

    Args:
        embed: turns consecutive crops into a vector for each window in them.
    """
    expect_axes(crops_u8, "f h w c", c=3)
    windows = len(crops_u8) - frames + 1
    return _in_batches(windows, lambda batch: embed(crops_u8[batch.start : batch.stop + frames - 1]))


def _in_batches(windows: int, embed: Callable[[range], Tensor]) -> Tensor:
    """Embed windows a batch at a time, so that memory does not grow with the clip."""
    batches = [
        embed(range(first, min(first + BATCH_WINDOWS, windows))) for first in range(0, windows, BATCH_WINDOWS)
    ]
    return torch.cat(batches) if batches else torch.empty(0, 0)


@dataclass(frozen=True, slots=True)
class SyncConfidence(ClipMetric):
    """How clearly lips and speech fit by SyncNet v2, at which distance and at which offset.

    Source: Chung and Zisserman (2016), "Out of time"; LSE-D and LSE-C of Prajwal et al. (2020).
    """

    name: ClassVar[str] = "sync_conf"
    values: ClassVar[tuple[Value, ...]] = (
        Value("sync_conf", "LSE-C", "higher"),
        Value("lse_d", "", "lower"),
        Value("sync_offset", "frames", "real"),
    )
    weights: ClassVar[str] = V2
    judge: Callable[[], SyncJudge]

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        return cls(cache(lambda: choose_judge("syncnet-v2", device=setup.device)))

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        try:
            found = score_sync(self.judge(), clip.made_u8, clip.speech)
        except MediaError as error:
            return Missing("too_short", str(error))
        numbers = (found.confidence, found.distance, float(found.offset_frames))
        return {value.name: number for value, number in zip(self.values, numbers, strict=True)}


@dataclass(frozen=True, slots=True)
class CompactSyncConfidence(SyncConfidence):
    """How clearly lips and speech fit by a SyncNet in the package, at which distance and at which offset.

    Where the package has an independent judge, which teaches no model, that is taken; otherwise the bundled
    SyncNet, whose scores are marked where it taught the model.

    Source: as `SyncConfidence`; the distance is 1 - cosine, and each judge's numbers are on their own scale.
    """

    name: ClassVar[str] = "sync_conf_compact"
    values: ClassVar[tuple[Value, ...]] = (
        Value("sync_conf_compact", "", "higher"),
        Value("sync_distance_compact", "", "lower"),
        Value("sync_offset_compact", "frames", "real"),
    )
    weights: ClassVar[str] = ""
    network_sha256: str = ""

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        from latentsync.weights.judges import load_syncnet

        path, device = cls.judge_file(), setup.device
        return cls(cache(lambda: own_judge(load_syncnet(path, device=device), device)), sha256_of(path))

    @classmethod
    def unavailable_reason(cls, setup: MetricSetup) -> str:
        return "" if cls.judge_file().is_file() else "this package was made without the bundled SyncNet"

    @classmethod
    def judge_file(cls) -> Path:
        return INDEPENDENT_SYNCNET if INDEPENDENT_SYNCNET.is_file() else BUNDLED_SYNCNET

    @property
    def version(self) -> str:
        """Changes with the judge's file, so that scores by another one are not taken for its."""
        return f"1-{self.network_sha256[:12]}"
