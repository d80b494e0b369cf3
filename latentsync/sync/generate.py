"""From tracked frames and speech to frames with a new mouth crop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, groupby
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.windows import StateSource, states_for_frames
from latentsync.diffusion.windows import blend_windows
from latentsync.faces.align import align
from latentsync.faces.landmarks import MOST_GAIN
from latentsync.faces.track import TrackedFrame
from latentsync.models.wav2lip import Wav2Lip
from latentsync.sync.denoiser import Denoiser, Sampling, Window
from latentsync.sync.references import References, candidate
from latentsync.sync.wav2lip import MelColumns, draw_mouths
from latentsync.types import FrameImage
from latentsync.weights.models import LipModel

ItemT = TypeVar("ItemT")
Why = Literal["", "no face", "mouth covered", "face turned away"]
# Of the brightest twentieth of a crop's values: wholly dim, not dim at all, and what dim crops are made.
DIM_LEVEL, LIT_LEVEL, BRIGHT_LEVEL = 70.0, 120.0, 190.0


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
    mark: Callable[[Iterator[CutFrame]], Iterator[CutFrame]] | None = None,
) -> Iterator[CutFrame]:
    """Cut each frame's crop, and weaken the frames within `fade_frames` of one that is left as it is.

    Args:
        mark: looks at the crops, and takes away those of frames that are better left as they are.
    """
    cuts = map(_cut, tracked_frames)
    yield from _faded(mark(cuts) if mark else cuts, fade_frames)


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


def brightened(crop_u8: FrameImage, gain: float) -> FrameImage:
    """A crop (h w c) times `gain`, which is 1 or more; the crop itself for 1."""
    if gain <= 1:
        return crop_u8
    return np.asarray(np.clip(np.rint(crop_u8 * np.float32(gain)), 0, 255), np.uint8)


def generate(
    cuts: Iterable[CutFrame],
    model: LipModel,
    states: StateSource,
    mask: NDArray[np.float32],
    sampling: Sampling,
    *,
    others: Sequence[LipModel] = (),
) -> Iterator[GeneratedFrame]:
    """Give every frame with a face a crop whose mouth follows the speech; other frames pass as they are.

    Frames are worked on in windows within one run of frames with a face; two windows are held. For a network
    that warps its references a run ends where another shot begins.

    Args:
        mask: (h w) in crop pixels, 1 = kept, 0 = generated.
        others: the same model on further devices, which take windows in turn: the result is the same.
    """
    mouth: _Mouth | _Wav2LipMouth
    if model.wav2lip is not None and isinstance(states, MelColumns):
        mouth = _Wav2LipMouth(model.wav2lip, states, mask, sampling.window_frames)
    else:
        mouth = _Mouth((model, *others), states, mask, sampling)
    try:
        for (has_face, _), run in groupby(cuts, key=mouth.run_of):
            if has_face:
                yield from mouth.predict_run(run)
            else:
                yield from (GeneratedFrame(cut, None) for cut in run)
    finally:
        mouth.close()


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

    def close(self) -> None:
        """Nothing: there is one device."""

    def run_of(self, cut: CutFrame) -> tuple[bool, int]:
        """Whether a frame has a face, and what else separates runs of them: nothing."""
        return cut.crop_u8 is not None, 0

    def predict_run(self, run: Iterable[CutFrame]) -> Iterator[GeneratedFrame]:
        for _, window in cut_windows(run, window=self.window_frames, overlap=0):
            crops_u8 = [cut.crop_u8 for cut in window if cut.crop_u8 is not None]
            mel = self.mel.around([cut.tracked.frame.time_s for cut in window])
            made = draw_mouths(self.network, crops_u8, mel, self.mask)
            yield from map(GeneratedFrame, window, made)


class _Mouth:
    """What stays the same from window to window, and who works on the next one."""

    def __init__(
        self,
        models: Sequence[LipModel],
        states: StateSource,
        mask: NDArray[np.float32],
        sampling: Sampling,
    ) -> None:
        # In "exact" mode the windows draw from one posterior, one after the other.
        models = models[:1] if sampling.is_exact else models
        self.denoisers = [Denoiser(model, mask, sampling) for model in models]
        self.states, self.sampling = states, sampling
        self.device, self.context_frames = models[0].device, models[0].spec.audio_context_frames
        self.pools = [ThreadPoolExecutor(1) for _ in models] if len(models) > 1 else []
        # Chosen before a window is handed to a device, so that it is the same however many there are.
        self.references = References() if models[0].unet.warp is not None else None

    def close(self) -> None:
        """End the threads of further devices."""
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def run_of(self, cut: CutFrame) -> tuple[bool, int]:
        """Whether a frame has a face, and the shot, where windows must not reach across it."""
        return cut.crop_u8 is not None, cut.tracked.shot if self.references else 0

    def predict_run(self, run: Iterable[CutFrame]) -> Iterator[GeneratedFrame]:
        held: deque[CutFrame] = deque()

        def remembered() -> Iterator[CutFrame]:
            for cut in run:
                if cut.crop_u8 is not None and not self.sampling.is_exact:
                    cut = replace(cut, gain=light_gain(cut.crop_u8))
                held.append(cut)
                yield cut

        spans = cut_windows(
            remembered(), window=self.sampling.window_frames, overlap=self.sampling.overlap_frames
        )
        windows = (self._window(span, frames) for span, frames in spans)
        # On a GPU the next windows are under way before these crops are waited for.
        behind = max(len(self.pools), 1 if self.device.type == "cuda" else 0)
        given = 0

        def decodings() -> Iterator[Callable[[Denoiser], Tensor]]:
            nonlocal given
            for latents in blend_windows(self._denoised(windows)):
                crops_u8 = [_lit(held[given + number]) for number in range(latents.shape[1])]
                given += len(crops_u8)
                yield partial(Denoiser.decode, latents=latents, crops_u8=crops_u8)

        for crops in self._in_turn(decodings(), behind):
            given -= len(crops)
            yield from _handed_out(crops, held)

    def _window(self, span: range, frames: list[CutFrame]) -> Window:
        times_s = [cut.tracked.frame.time_s for cut in frames]
        audio = states_for_frames(self.states, times_s, context_frames=self.context_frames)  # f n d
        crops_u8, reference = [_lit(cut) for cut in frames], None
        if self.references is not None:
            reference = self.references.choose(
                [
                    candidate(cut.tracked, crop_u8, gain=cut.gain, visible=cut.visible)
                    for cut, crop_u8 in zip(frames, crops_u8, strict=True)
                ]
            )
        return Window(span, crops_u8, audio, reference)

    def _denoised(self, windows: Iterable[Window]) -> Iterator[tuple[range, Tensor]]:
        """The windows' clean latents (c f h w), in order, on the first device."""
        for made in self._in_turn(self._batches(windows), len(self.pools)):
            yield from ((span, latents.to(self.device)) for span, latents in made)

    def _batches(
        self, windows: Iterable[Window]
    ) -> Iterator[Callable[[Denoiser], list[tuple[range, Tensor]]]]:
        """What to do with as many windows of one length as each device takes at once."""
        batch: list[Window] = []
        sizes = (denoiser.windows for denoiser in cycle(self.denoisers))
        size = next(sizes)
        for window in windows:
            if batch and (len(batch) >= size or len(window.span) != len(batch[0].span)):
                yield partial(Denoiser.denoise, batch=batch)
                batch, size = [], next(sizes)
            batch.append(window)
            if len(batch) >= size:
                yield partial(Denoiser.denoise, batch=batch)
                batch, size = [], next(sizes)
        if batch:
            yield partial(Denoiser.denoise, batch=batch)

    def _in_turn(self, works: Iterable[Callable[[Denoiser], ItemT]], behind: int) -> Iterator[ItemT]:
        """The results in order: devices take turns; `behind` works are under way when one is waited for."""
        waiting: deque[Callable[[], ItemT]] = deque()
        for number, work in enumerate(works):
            denoiser = self.denoisers[number % len(self.denoisers)]
            if self.pools:
                waiting.append(self.pools[number % len(self.pools)].submit(work, denoiser).result)
            else:
                made: ItemT = work(denoiser)
                waiting.append(partial(_as_it_is, made))
            while len(waiting) > behind:
                yield waiting.popleft()()
        for result in waiting:
            yield result()


def _as_it_is(made: ItemT) -> ItemT:
    return made


def _lit(cut: CutFrame) -> FrameImage:
    """The crop in the light that the networks get."""
    assert cut.crop_u8 is not None
    return brightened(cut.crop_u8, cut.gain)


def _handed_out(crops: Tensor, held: deque[CutFrame]) -> Iterator[GeneratedFrame]:
    for crop in crops.cpu().numpy():
        cut = held.popleft()
        yield GeneratedFrame(cut, np.asarray(crop / cut.gain, np.float32))
