"""Windows of frames: how a long video is cut for the network, and how the results are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from latentsync.axes import expect_axes

WINDOW_FRAMES = 16  # what the released models were trained with
OVERLAP_FRAMES = 4


def plan_windows(frames: int, *, window: int = WINDOW_FRAMES, overlap: int = OVERLAP_FRAMES) -> list[range]:
    """Cut `frames` into windows in order, each sharing at least `overlap` frames with the one before.

    With overlap the last window moves back to be whole, because the network's statistics depend on the number
    of frames. With overlap 0 the last window is what remains, as in the reference.

    >>> plan_windows(30)
    [range(0, 16), range(12, 28), range(14, 30)]
    >>> plan_windows(35, overlap=0)
    [range(0, 16), range(16, 32), range(32, 35)]
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap of {overlap} frames must be at least 0 and below the window's {window}")
    if frames <= 0:
        return []
    windows = [range(0, min(window, frames))]
    while windows[-1].stop < frames:
        start = windows[-1].stop - overlap
        if overlap:
            start = min(start, frames - window)
        windows.append(range(start, min(start + window, frames)))
    return windows


def blend_windows(windows: Iterable[tuple[range, Tensor]]) -> Iterator[Tensor]:
    """Join windows of latents (c f h w) that come in order, giving out frames as soon as they are final.

    Frames that two windows share fade linearly from the earlier to the later one. Two windows are held.

    Yields:
        Latents (c f h w) of consecutive frames, at least one at a time, without gaps or repeats.

    Raises:
        ValueError: a window starts before frames already given out, or leaves a gap.

    Source: ours; the reference joins windows hard, which is what happens here where they share no frame.
    """
    held: Tensor | None = None
    first = 0  # the frame that `held` starts with
    for span, latents in windows:
        expect_axes(latents, "c f h w", f=len(span))
        if held is None:
            held, first = latents, span.start
            continue
        if not first <= span.start <= first + held.shape[1]:
            raise ValueError(f"window {span} does not join frames {first} to {first + held.shape[1]}")
        if span.start > first:
            yield held[:, : span.start - first]
        held, first = _fade(held[:, span.start - first :], latents), span.start
    if held is not None:
        yield held


def _fade(earlier: Tensor, later: Tensor) -> Tensor:
    shared = earlier.shape[1]
    if shared > later.shape[1]:
        raise ValueError(f"a window of {later.shape[1]} frames ends before the one in front of it")
    # Neither 0 nor 1, so that both windows count in every shared frame.
    later_weight = (torch.arange(1, shared + 1, device=later.device) / (shared + 1)).to(later.dtype)
    faded = earlier.lerp(later[:, :shared], later_weight[:, None, None])  # c f h w
    return torch.cat([faded, later[:, shared:]], dim=1)
