"""How well a SyncNet tells right from wrong speech."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentsync.errors import MediaError
from latentsync.evaluate.syncnet import Draws, as_dict, judge_clips, rows, write_page
from latentsync.events import ignore
from latentsync.manifest import ManifestClip
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe

from .conftest import WriteClip

USUAL = load_recipe("evaluate", EvaluateRecipe)


@dataclass
class Oracle:
    """Embeds the number of a frame, and of speech `late` frames behind; or guesses."""

    late: int = 0
    is_guessing: bool = False
    name: str = "oracle"

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        return self._vectors(range(len(crops_u8)), seed=1)

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        frames = len(samples) // 640
        return self._vectors(range(-self.late, frames - self.late), seed=2)

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return 1 - (visual * audio).sum(1)

    def _vectors(self, frames: range, *, seed: int) -> Tensor:
        if self.is_guessing:
            return functional.normalize(
                torch.randn(len(frames), 3, generator=torch.Generator().manual_seed(seed)), dim=1
            )
        return functional.one_hot(torch.tensor(list(frames)) + 20, 200).float()


class CountsFrames(Oracle):
    """Remembers how many frames it was shown."""

    seen: ClassVar[list[int]] = []

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        self.seen.append(len(crops_u8))
        return super().embed_crops(crops_u8)


def clip_of(path: Path) -> ManifestClip:
    return ManifestClip(
        path=path,
        name=path.name,
        source=path.name,
        frames=30,
        resolution=96,
        split="validation",
        person="a",
        sha256=None,
    )


SETTINGS = USUAL.syncnet.replaced(pairs=400, max_shift_frames=5)


def test_a_perfect_one_is_never_wrong(write_clip: WriteClip) -> None:
    clips = [clip_of(write_clip(name)) for name in ("a.mp4", "b.mp4")]
    found = judge_clips(Oracle(), clips, SETTINGS, ignore, seed=42)
    assert (found.accuracy, found.balanced_accuracy, found.auc, found.offsets) == (1, 1, 1, {0: 2})
    assert found.pairs == 400


def test_one_that_guesses_is_right_half_of_the_time(write_clip: WriteClip) -> None:
    found = judge_clips(Oracle(is_guessing=True), [clip_of(write_clip("a.mp4"))], SETTINGS, ignore, seed=42)
    assert found.accuracy == pytest.approx(0.5, abs=0.12)
    assert found.auc == pytest.approx(0.5, abs=0.15)


def test_an_offset_is_found(write_clip: WriteClip) -> None:
    found = judge_clips(Oracle(late=3), [clip_of(write_clip("a.mp4"))], SETTINGS, ignore, seed=42)
    assert [abs(offset) for offset in found.offsets] == [3]
    assert found.within_one_frame == 0


def test_other_frame_rates_are_matched_by_time(write_clip: WriteClip) -> None:
    clip = clip_of(write_clip("a.mp4", fps=50))
    found = judge_clips(CountsFrames(), [clip], SETTINGS, ignore, seed=42)
    assert found.clips == 1 and CountsFrames.seen == [30]


def test_what_a_clip_is_asked_does_not_depend_on_others() -> None:
    draws = Draws.of(5, 1000, seed=42)
    starts, others = draws.windows(3, 20)
    assert (starts != others).all()
    assert min(starts.min(), others.min()) >= 0 and max(starts.max(), others.max()) < 20
    assert len(starts) == (draws.clip == 3).sum()
    assert draws.is_right.mean() == pytest.approx(0.5, abs=0.05)


def test_clips_that_cannot_be_used_are_listed(write_clip: WriteClip, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"x")
    clips = [
        clip_of(write_clip("a.mp4")),
        clip_of(tmp_path / "bad.mp4"),
        clip_of(write_clip("mute.mp4", sound=None)),
    ]
    found = judge_clips(Oracle(), clips, SETTINGS, ignore, seed=42)
    assert [name for name, _ in found.excluded] == ["bad.mp4", "mute.mp4"]
    assert found.clips == 1
    with pytest.raises(MediaError, match="none of 1 clips"):
        judge_clips(Oracle(), clips[1:2], SETTINGS, ignore, seed=42)


def test_it_is_shown_beside_the_papers(write_clip: WriteClip) -> None:
    found = judge_clips(Oracle(), [clip_of(write_clip("a.mp4"))], SETTINGS, ignore, seed=42)
    assert {"94%", "91%"} <= {text for _, text in rows(found)}
    assert as_dict(found)["accuracy"] == 1
    assert write_page(found, [("data", "a")]).count("data:image/svg+xml;base64,") == 2
