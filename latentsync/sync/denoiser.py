"""The networks on one device: windows of crops and speech to clean latents, and latents to crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.axes import to_levels, to_pm1
from latentsync.diffusion.noise import shared_noise
from latentsync.diffusion.sampling import NO_SHORTCUTS, Shortcuts, build_scheduler, denoise
from latentsync.diffusion.view import MouthView, Warp, build_view, condition
from latentsync.errors import MemoryShortage
from latentsync.models.vae import EncodeMode
from latentsync.runtime import Seeds
from latentsync.sync.references import FADE_FRAMES, Reference
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel

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
class Window:
    """Frames that are denoised together.

    span      their numbers in the run of frames with a face
    crops_u8  (f h w c), in ordinary light
    audio     (f n d) the speech around each frame
    reference of all its frames, where the network warps it; None: each frame is its own
    """

    span: range
    crops_u8: Sequence[FrameImage]
    audio: Tensor
    reference: Reference | None = None


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


class Denoiser:
    """What stays the same from window to window on one device: networks, noise, mask."""

    def __init__(self, model: LipModel, mask: NDArray[np.float32], sampling: Sampling) -> None:
        """`mask` is (h w) in crop pixels, 1 = kept, 0 = generated."""
        self.model, self.sampling = model, sampling
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

    def denoise(self, batch: Sequence[Window]) -> list[tuple[range, Tensor]]:
        """Clean latents (c f h w) of each of some windows of one length, fewer at once if memory runs out.

        Raises:
            MemoryShortage: not even one window fits.
        """
        made: list[tuple[range, Tensor]] = []
        while len(made) < len(batch):
            part = batch[len(made) : len(made) + self.windows]
            try:
                latents = self._denoise(part)
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise self._shortage("denoising", len(part[0].span)) from error
                self.windows = len(part) // 2
                torch.cuda.empty_cache()
                continue
            made += zip((window.span for window in part), latents, strict=True)
        return made

    @torch.inference_mode()
    def decode(self, latents: Tensor, crops_u8: Sequence[FrameImage]) -> Tensor:
        """Crops (f h w c), 0..255, of latents (c f h w), still on the device.

        Raises:
            MemoryShortage: not even one frame fits.
        """
        latents = latents.movedim(1, 0).to(self.model.device, self.model.dtype)  # f c h w
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
            made_pm1 = self.view.insert(made_pm1, self._images(crops_u8))
        return to_levels(made_pm1.float()).permute(0, 2, 3, 1).contiguous()  # f h w c

    def _shortage(self, work: str, frames: int) -> MemoryShortage:
        device, side_px = self.model.device, self.model.spec.resolution
        return MemoryShortage(
            f"out of memory on {device}: {work} {frames} frame{'s' * (frames > 1)} of {side_px} px at once",
            hint="close what else uses the device, or add --device cpu or --model compact",
        )

    def _images(self, crops_u8: Sequence[FrameImage]) -> Tensor:
        """Crops as pictures (f c h w) in -1..1."""
        crops = torch.from_numpy(np.stack(crops_u8))  # f h w c
        if self.model.device.type == "cuda":  # as bytes, and without waiting for what is under way
            crops = crops.pin_memory().to(self.model.device, non_blocking=True)
        images = crops.permute(0, 3, 1, 2)  # f c h w
        return to_pm1(images.to(self.model.device, self.model.dtype))

    @torch.inference_mode()
    def _denoise(self, batch: Sequence[Window]) -> list[Tensor]:
        model, frames = self.model, len(batch[0].span)
        crops_u8 = [crop for window in batch for crop in window.crops_u8]
        images = self._images(crops_u8)  # b·f c h w
        is_exact = self.sampling.is_exact
        mode: EncodeMode = "sample" if is_exact else "mean"
        audio = torch.cat([window.audio for window in batch]).to(model.device, model.dtype)  # b·f n d
        warp = self._warp(batch, audio)
        # Equal crops are warped to different mouths.
        is_each = is_exact or warp is not None
        places = range(len(crops_u8)) if is_each else _first_places(crops_u8)
        firsts = sorted(set(places))

        def encode(pictures: Tensor) -> Tensor:
            """Latents of b·f pictures, or several times as many; those of equal crops are computed once."""
            if len(firsts) == len(places):
                return model.vae.encode(pictures, mode=mode, generator=self.posterior)
            kept = [first + part for part in range(0, len(pictures), len(places)) for first in firsts]
            latents = model.vae.encode(pictures[kept], mode=mode, generator=self.posterior)
            order = {first: number for number, first in enumerate(kept)}
            again = [order[place + part] for part in range(0, len(pictures), len(places)) for place in places]
            return latents[again]

        latents = denoise(
            model.unet,
            self.scheduler,
            self.noise.expand(len(batch), -1, frames, -1, -1),
            condition(
                self.view,
                images,
                self._references(batch, images),
                encode,
                frames=frames,
                at_once=not is_exact,
                warp=warp,
            ),
            audio,
            steps=self.sampling.steps,
            guidance=self.sampling.guidance,
            shortcuts=self.sampling.shortcuts,
        )
        return list(latents)

    def _references(self, batch: Sequence[Window], images: Tensor) -> Tensor:
        """The references (b·f 3 h w) of windows of crops `images` (b·f 3 h w)."""
        given = [window.reference.crop_u8 for window in batch if window.reference is not None]
        if len(given) < len(batch):
            return images
        return self._images(given).repeat_interleave(len(batch[0].span), dim=0)

    def _warp(self, batch: Sequence[Window], audio: Tensor) -> Warp | None:
        """What warps the references of windows with the speech `audio` (b·f n d), if the network does.

        Where another reference begins, the two are faded once both have been warped to the same mouth.
        """
        warp = self.model.unet.warp_for(audio, self.sampling.guidance)
        frames = len(batch[0].span)
        count = min(FADE_FRAMES, frames)
        fading = [
            (number * frames + step, window.reference.before_u8, (step + 1) / (count + 1))
            for number, window in enumerate(batch)
            if window.reference is not None and window.reference.before_u8 is not None
            for step in range(count)
        ]
        if warp is None or not fading:
            return warp
        rows, before_u8, weights = zip(*fading, strict=True)
        at = torch.tensor(rows, device=audio.device)
        before = self.view.cut(self._images(before_u8))  # k 3 h w
        warp_before = self.model.unet.warp_for(audio[at], self.sampling.guidance)
        later = torch.tensor(weights).to(before)[:, None, None, None]  # k c h w

        def faded(references: Tensor, known: Tensor) -> Tensor:
            made = warp(references, known)
            assert warp_before is not None
            made[at] = warp_before(before, known[at]).lerp(made[at], later)
            return made

        return faded


def _first_places(crops_u8: Sequence[FrameImage]) -> list[int]:
    """For each crop the number of the first one that is equal to it: of a still picture all are."""
    known: dict[bytes, int] = {}
    return [known.setdefault(crop.tobytes(), number) for number, crop in enumerate(crops_u8)]
