from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from latentsync.diffusion.windows import blend_windows, plan_windows


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 20, 28, 29, 100])
def test_blended_plan_covers_all_frames_with_whole_windows(frames: int) -> None:
    windows = plan_windows(frames, overlap=4)
    assert (windows[0].start, windows[-1].stop) == (0, frames)
    assert {len(window) for window in windows} == {min(16, frames)}
    for earlier, later in itertools.pairwise(windows):
        assert earlier.start < later.start <= earlier.stop - 4


def test_exact_plan_leaves_a_short_tail() -> None:
    assert plan_windows(35, overlap=0) == [range(0, 16), range(16, 32), range(32, 35)]


def test_no_frames_no_windows() -> None:
    assert plan_windows(0) == []


def test_overlap_must_be_below_the_window() -> None:
    with pytest.raises(ValueError, match="overlap of 16"):
        plan_windows(20, overlap=16)


def windows_of(latents: torch.Tensor, overlap: int) -> Iterator[tuple[range, torch.Tensor]]:
    for window in plan_windows(latents.shape[1], overlap=overlap):
        yield window, latents[:, window.start : window.stop]


@pytest.mark.parametrize("overlap", [0, 4, 9])
@pytest.mark.parametrize("frames", [5, 16, 30, 57])
def test_windows_that_agree_join_without_a_trace(frames: int, overlap: int) -> None:
    latents = torch.randn(4, frames, 2, 2)
    joined = torch.cat(list(blend_windows(windows_of(latents, overlap))), dim=1)
    torch.testing.assert_close(joined, latents)


def test_shared_frames_fade_linearly() -> None:
    zeros, ones = torch.zeros(1, 5, 1, 1), torch.ones(1, 5, 1, 1)
    joined = torch.cat(list(blend_windows([(range(0, 5), zeros), (range(2, 7), ones)])), dim=1)
    assert joined.flatten().tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_frames_come_as_soon_as_they_are_final() -> None:
    asked = []

    def windows() -> Iterator[tuple[range, torch.Tensor]]:
        for start in (0, 12, 24):
            asked.append(start)
            yield range(start, start + 16), torch.zeros(1, 16, 1, 1)

    first = next(blend_windows(windows()))
    assert (first.shape[1], asked) == (12, [0, 12])


@pytest.mark.parametrize("later", [range(6, 10), range(-1, 6), range(1, 3)])
def test_windows_that_do_not_join(later: range) -> None:
    pair = [(span, torch.zeros(1, len(span), 1, 1)) for span in (range(0, 5), later)]
    with pytest.raises(ValueError, match="window"):
        list(blend_windows(pair))
