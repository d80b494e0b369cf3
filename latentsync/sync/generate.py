"""From tracked frames and speech to frames with a new mouth crop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.windows import StateSource, states_for_frames
from latentsync.axes import to_levels, to_pm1
from latentsync.diffusion.noise import shared_noise
from latentsync.diffusion.sampling import NO_SHORTCUTS, Shortcuts, build_scheduler, denoise
from latentsync.diffusion.view import MouthView, build_view, condition
from latentsync.diffusion.windows import blend_windows
from latentsync.errors import MemoryShortage
from latentsync.faces.align import align
from latentsync.faces.landmarks import MOST_GAIN
from latentsync.faces.track import TrackedFrame
from latentsync.models.vae import EncodeMode
from latentsync.models.wav2lip import Wav2Lip
from latentsync.runtime import Seeds
from latentsync.sync.wav2lip import MelColumns, draw_mouths
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel

ItemT = TypeVar("ItemT")
Why = Literal["", "no face", "mouth covered", "face turned away"]
# Of the brightest twentieth of a crop's values: wholly dim, not dim at all, and what dim crops are made.
DIM_LEVEL, LIT_LEVEL, BRIGHT_LEVEL = 70.0, 120.0, 190.0
MOST_WINDOWS = 4  # in a batch at 256 px: 65 TFLOP a guided step keep any GPU busy while the next is launched
WINDOW_BYTES_AT_256 = 600_000_000  # that a guided window takes beside the weights, at 16 frames; counted
DECODED_PIXELS = 16 * 256**2  # that the autoencoder decodes at once: 16 frames at 512 px would take 6.4 GB


@dataclass(frozen=True, slots=True)
class Sampling:
    """How latents are denoised; see `recipes/sync.toml`."""

    steps: int
    guidance: float
    window_frames: int
    overlap_frames: int
    is_exact: bool
    seed: int
    shortcuts: Shortcuts = NO_SHORTCUTS


@dataclass(frozen=True, slots=True)
class CutFrame:
    """A tracked frame with its aligned crop (h w c), None where the frame is left as it is.

    strength  how much of the new mouth is shown, 0..1: below 1 next to frames that are left as they are
    gain      what the crop is multiplied by before the networks, and its new mouth divided by after them
    why       the frame is left as it is
    visible   (h w) over the crop, 0..1: where nothing is in front of the face; None: nowhere anything
    """

    tracked: TrackedFrame
    crop_u8: FrameImage | None
    strength: float = 1.0
    gain: float = 1.0
    why: Why = ""
    visible: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class GeneratedFrame:
    """A cut frame with the crop (h w c) that the network made, float32 in 0..255; None where no face is."""

    cut: CutFrame
    crop: NDArray[np.float32] | None


def cut_crops(
    tracked_frames: Iterable[TrackedFrame],
    *,
    fade_frames: int,
    watch: Callable[[Iterator[CutFrame]], Iterator[CutFrame]] | None = None,
) -> Iterator[CutFrame]:
    """Cut each frame's crop, and weaken the frames within `fade_frames` of one that is left as it is.

    Args:
        watch: looks at the crops, and takes away those of frames that are better left as they are.
    """
    cuts = map(_cut, tracked_frames)
    yield from _faded(watch(cuts) if watch else cuts, fade_frames)


def _cut(tracked: TrackedFrame) -> CutFrame:
    if tracked.affine is None:
        return CutFrame(tracked, None, why="no face")
    return CutFrame(tracked, align(tracked.frame.picture, tracked.affine))


def _faded(cuts: Iterable[CutFrame], fade_frames: int) -> Iterator[CutFrame]:
    window: deque[CutFrame] = deque()
    since_gap = 2 * fade_frames + 1  # frames since the last one without a crop

    def leave() -> CutFrame:
        nonlocal since_gap
        cut = window.popleft()
        if cut.crop_u8 is None:
            since_gap = 0
            return cut
        since_gap += 1
        until_gap = next((k for k, near in enumerate(window, 1) if near.crop_u8 is None), fade_frames + 1)
        strength = min(1.0, min(since_gap, until_gap) / (fade_frames + 1))
        return cut if strength == 1 else replace(cut, strength=strength)

    for cut in cuts:
        window.append(cut)
        if len(window) > fade_frames:
            yield leave()
    while window:
        yield leave()


def light_gain(crop_u8: FrameImage) -> float:
    """What brings a dim crop (h w c) to ordinary light, in which the networks were trained; else 1.

    The brightest values count, not the mean: dark skin stays as it is. Without steps, so that nothing
    flickers where light is just low.

    >>> light_gain(np.full((8, 8, 3), 38, np.uint8)), light_gain(np.full((8, 8, 3), 120, np.uint8))
    (5.0, 1.0)
    """
    bright = max(1.0, float(np.percentile(crop_u8[::2, ::2], 95)))
    share = min(1.0, max(0.0, (LIT_LEVEL - bright) / (LIT_LEVEL - DIM_LEVEL)))
    return float(min(MOST_GAIN, max(1.0, BRIGHT_LEVEL / bright)) ** share)


def generate(
    cuts: Iterable[CutFrame],
    model: LipModel,
    states: StateSource,
    mask: NDArray[np.float32],
    sampling: Sampling,
) -> Iterator[GeneratedFrame]:
    """Give every frame with a face a crop whose mouth follows the speech; other frames pass as they are.

    Frames are worked on in windows within one run of frames with a face; two windows are held.

    Args:
        mask: (h w) in crop pixels, 1 = kept, 0 = generated.
    """
    mouth: _Mouth | _Wav2LipMouth
    if model.wav2lip is not None and isinstance(states, MelColumns):
        mouth = _Wav2LipMouth(model.wav2lip, states, mask, sampling.window_frames)
    else:
        mouth = _Mouth(model, states, mask, sampling)
    for has_face, run in groupby(cuts, key=lambda cut: cut.crop_u8 is not None):
        if has_face:
            yield from mouth.predict_run(run)
        else:
            yield from (GeneratedFrame(cut, None) for cut in run)


def cut_windows(items: Iterable[ItemT], *, window: int, overlap: int) -> Iterator[tuple[range, list[ItemT]]]:
    """Cut a stream of unknown length as `diffusion.windows.plan_windows` cuts a known one.

    >>> [span for span, _ in cut_windows("abcdefghij", window=4, overlap=1)]
    [range(0, 4), range(3, 7), range(6, 10)]
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap of {overlap} frames must be at least 0 and below the window's {window}")
    recent: deque[ItemT] = deque(maxlen=window)
    taken, waiting, wanted = 0, 0, window
    for item in items:
        recent.append(item)
        taken, waiting = taken + 1, waiting + 1
        if waiting == wanted:
            yield range(taken - len(recent), taken), list(recent)
            waiting, wanted = 0, window - overlap
    if waiting:
        rest = list(recent) if overlap else list(recent)[-waiting:]
        yield range(taken - len(rest), taken), rest


class _Wav2LipMouth:
    """What stays the same from window to window of a Wav2Lip, which takes each frame by itself."""

    def __init__(
        self, network: Wav2Lip, mel: MelColumns, mask: NDArray[np.float32], window_frames: int
    ) -> None:
        self.network, self.mel, self.mask, self.window_frames = network, mel, mask, window_frames

    def predict_run(self, run: Iterable[CutFrame]) -> Iterator[GeneratedFrame]:
        for _, window in cut_windows(run, window=self.window_frames, overlap=0):
            crops_u8 = [cut.crop_u8 for cut in window if cut.crop_u8 is not None]
            mel = self.mel.around([cut.tracked.frame.time_s for cut in window])
            made = draw_mouths(self.network, crops_u8, mel, self.mask)
            yield from map(GeneratedFrame, window, made)


def batch_windows(sampling: Sampling, side_px: int, device: torch.device) -> int:
    """How many windows are denoised in one batch on this device.

    Windows are independent until their latents are blended. One at a time leaves a fast GPU waiting for the
    processor at 256 px; on a CPU, and where "exact" draws from the posterior window by window, it is best.

    Source: FLOPs and kernels of the released sizes, counted (docs/performance.md).
    """
    if device.type != "cuda" or sampling.is_exact:
        return 1
    wanted = max(1, min(MOST_WINDOWS, MOST_WINDOWS * 256**2 // side_px**2))
    free_bytes, _ = torch.cuda.mem_get_info(device)
    needed_bytes = WINDOW_BYTES_AT_256 * (side_px / 256) ** 2 * sampling.window_frames / 16
    return max(1, min(wanted, int(free_bytes / 2 / needed_bytes)))


class _Mouth:
    """What stays the same from window to window: networks, noise, mask."""

    def __init__(
        self, model: LipModel, states: StateSource, mask: NDArray[np.float32], sampling: Sampling
    ) -> None:
        self.model, self.states, self.sampling = model, states, sampling
        pixels = torch.from_numpy(mask).to(model.device, model.dtype)  # h w
        self.view = build_view(model.spec.view, pixels, factor=model.vae.factor)
        side = len(self.view.small(pixels))
        self.scheduler = build_scheduler(model.spec.prediction_type, model.spec.timestep_spacing)
        seeds = Seeds(sampling.seed)
        self.posterior = seeds.generator("posterior")
        noise = shared_noise((1, model.vae.latent_channels, 1, side, side), seeds.generator("noise"))
        # bf16 has 8 bits: what is added up over the steps needs more.
        latents_dtype = torch.float32 if model.dtype == torch.bfloat16 else model.dtype
        self.noise = noise.to(model.device, latents_dtype)
        self.windows = batch_windows(sampling, len(mask), model.device)
        self.decoded_frames = max(1, DECODED_PIXELS // len(mask) ** 2)

    def predict_run(self, run: Iterable[CutFrame]) -> Iterator[GeneratedFrame]:
        held: deque[CutFrame] = deque()

        def remembered() -> Iterator[CutFrame]:
            for cut in run:
                if cut.crop_u8 is not None and not self.sampling.is_exact:
                    cut = replace(cut, gain=light_gain(cut.crop_u8))
                held.append(cut)
                yield cut

        windows = cut_windows(
            remembered(), window=self.sampling.window_frames, overlap=self.sampling.overlap_frames
        )
        # On a GPU the next windows are under way before these crops are waited for.
        behind = 1 if self.model.device.type == "cuda" else 0
        waiting: deque[Tensor] = deque()
        for latents in blend_windows(self._denoised(windows)):
            first = sum(map(len, waiting))
            frames = [held[first + number] for number in range(latents.shape[1])]
            waiting.append(self._decoded(latents, frames))
            while len(waiting) > behind:
                yield from _handed_out(waiting.popleft(), held)
        for crops in waiting:
            yield from _handed_out(crops, held)

    def _denoised(self, windows: Iterable[tuple[range, list[CutFrame]]]) -> Iterator[tuple[range, Tensor]]:
        """Windows with their clean latents (c f h w), in batches of windows of one length."""
        batch: list[tuple[range, list[CutFrame]]] = []
        for span, frames in windows:
            if batch and len(frames) != len(batch[0][1]):
                yield from self._denoised_batch(batch)
                batch = []
            batch.append((span, frames))
            if len(batch) >= self.windows:
                yield from self._denoised_batch(batch)
                batch = []
        if batch:
            yield from self._denoised_batch(batch)

    def _denoised_batch(self, batch: list[tuple[range, list[CutFrame]]]) -> Iterator[tuple[range, Tensor]]:
        while batch:
            part = batch[: self.windows]
            try:
                latents = self._denoise([frames for _, frames in part])
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise self._shortage("denoising", len(part[0][1])) from error
                self.windows = len(part) // 2
                torch.cuda.empty_cache()
                continue
            yield from zip((span for span, _ in part), latents, strict=True)
            batch = batch[len(part) :]

    @torch.inference_mode()
    def _decoded(self, latents: Tensor, frames: list[CutFrame]) -> Tensor:
        """Crops (f h w c), 0..255, of latents (c f h w), still on the device."""
        latents = latents.movedim(1, 0).to(self.model.dtype)  # f c h w
        parts: list[Tensor] = []
        while sum(map(len, parts)) < len(latents):
            first = sum(map(len, parts))
            try:
                parts.append(self.model.vae.decode(latents[first : first + self.decoded_frames]))
            except torch.OutOfMemoryError as error:
                if self.decoded_frames == 1:
                    raise self._shortage("decoding", 1) from error
                self.decoded_frames = (self.decoded_frames + 1) // 2
                torch.cuda.empty_cache()
        made_pm1 = torch.cat(parts)  # f c h w
        if isinstance(self.view, MouthView):
            made_pm1 = self.view.insert(made_pm1, self._images(frames))
        return to_levels(made_pm1.float()).permute(0, 2, 3, 1).contiguous()  # f h w c

    def _shortage(self, work: str, frames: int) -> MemoryShortage:
        device, side_px = self.model.device, self.model.spec.resolution
        return MemoryShortage(
            f"out of memory on {device}: {work} {frames} frame{'s' * (frames > 1)} of {side_px} px at once",
            hint="close what else uses the device, or add --device cpu or --model compact",
        )

    def _images(self, frames: Sequence[CutFrame]) -> Tensor:
        """The crops (f c h w) of frames in -1..1."""
        levels = np.stack([cut.crop_u8 for cut in frames if cut.crop_u8 is not None])  # f h w c
        gains = np.array([cut.gain for cut in frames], np.float32)
        if (gains > 1).any():
            levels = np.clip(np.rint(levels * gains[:, None, None, None]), 0, 255).astype(np.uint8)
        crops = torch.from_numpy(levels)
        if self.model.device.type == "cuda":  # as bytes, and without waiting for what is under way
            crops = crops.pin_memory().to(self.model.device, non_blocking=True)  # f h w c
        images = crops.permute(0, 3, 1, 2)  # f c h w
        return to_pm1(images.to(self.model.device, self.model.dtype))

    @torch.inference_mode()
    def _denoise(self, windows: Sequence[Sequence[CutFrame]]) -> list[Tensor]:
        """Clean latents (c f h w) of each of some windows of one length."""
        model, frames = self.model, len(windows[0])
        cuts = [cut for window in windows for cut in window]
        images = self._images(cuts)  # b·f c h w
        mode: EncodeMode = "sample" if self.sampling.is_exact else "mean"
        encode = partial(model.vae.encode, mode=mode, generator=self.posterior)
        times_s = [cut.tracked.frame.time_s for cut in cuts]
        context = model.spec.audio_context_frames
        audio = states_for_frames(self.states, times_s, context_frames=context)  # b·f n d
        audio = audio.to(model.device, model.dtype)
        latents = denoise(
            model.unet,
            self.scheduler,
            self.noise.expand(len(windows), -1, frames, -1, -1),
            condition(self.view, images, images, encode, frames=frames, warp=model.unet.warp_for(audio)),
            audio,
            steps=self.sampling.steps,
            guidance=self.sampling.guidance,
            shortcuts=self.sampling.shortcuts,
        )
        return list(latents)


def _handed_out(crops: Tensor, held: deque[CutFrame]) -> Iterator[GeneratedFrame]:
    for crop in crops.cpu().numpy():
        cut = held.popleft()
        yield GeneratedFrame(cut, np.asarray(crop / cut.gain, np.float32))
