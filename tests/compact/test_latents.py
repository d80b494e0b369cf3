"""What is made of a labelled clip before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_clips import find_clips
from latents import LIP_POINTS, hear_clips, lip_shape, load_prepared, prepare_clips
from torch import Tensor

from latentsync.audio.whisper import WhisperEncoder
from latentsync.audio.windows import states_for_frames
from latentsync.events import ignore
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig


class Ear(WhisperEncoder):
    """Stands for Whisper: each step says where it is in the window."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.windows = 0

    def states(self, log_mel: Tensor) -> Tensor:
        self.windows += 1
        places = torch.arange(1500.0)
        return places[None, :, None, None].expand(1, -1, 5, 4)  # b t n d


@pytest.fixture(scope="module")
def vae() -> FaceVAE:
    torch.manual_seed(0)
    config = VAEConfig(block_out_channels=(8, 8), num_blocks=1, latent_channels=2, patch=4, norm_num_groups=4)
    return build_vae(config).eval()


def points_of(mouth_open_px: list[float]) -> np.ndarray:
    """A face (f 68 2) at a new place in each frame, its lower lip so far down."""
    face = np.random.default_rng(1).uniform(0, 100, (68, 2)).astype(np.float32)
    frames = np.repeat(face[None], len(mouth_open_px), 0)
    frames[:, 57, 1] += mouth_open_px
    return frames + 10 * np.arange(len(mouth_open_px), dtype=np.float32)[:, None, None]


def test_lips_are_measured_against_nose_and_median() -> None:
    shape = lip_shape(points_of([0.0, 0.0, 6.0]))
    assert shape.shape == (3, 2 * len(LIP_POINTS))
    moved = 2 * LIP_POINTS.index(57) + 1
    assert shape[:, moved] == pytest.approx([0, 0, 6], abs=1e-4)
    assert np.abs(np.delete(shape, moved, axis=1)).max() < 1e-4


def test_each_clip_hears_its_own_part_of_a_shared_window(make_clips: Callable[..., Path]) -> None:
    clips = find_clips(make_clips("a", "b", "c", frames=5, side_px=2))
    ear = Ear()
    heard = {clip.name: states for clip, states in hear_clips(clips, ear, np.random.default_rng(0))}
    assert ear.windows == 1
    assert {len(states) for states in heard.values()} == {23}  # 7200 samples
    starts = sorted(int(states[0, 0, 0]) for states in heard.values())
    assert starts == [0, 43, 86]  # 23 steps and a pause of 20


def test_a_clip_of_a_moment_is_left_out(make_clips: Callable[..., Path]) -> None:
    folder = make_clips("a", frames=5, side_px=2)
    np.save(folder / "a" / "audio.npy", np.zeros(3000, np.float32))
    assert list(hear_clips(find_clips(folder), Ear(), np.random.default_rng(0))) == []


def test_clips_are_prepared_once(make_clips: Callable[..., Path], vae: FaceVAE, tmp_path: Path) -> None:
    clips = find_clips(make_clips("short", frames=6, side_px=32))
    clips += find_clips(make_clips("long", frames=64, side_px=32))[:1]
    assert [clip.name for clip in clips] == ["short", "long"]

    def prepare() -> tuple[list[Path], Ear]:
        ear = Ear()
        mask = torch.ones(32, 32)
        return prepare_clips(clips, vae, ear, mask, tmp_path / "out", seed=1, report=ignore), ear

    paths, _ = prepare()
    assert [path.name for path in paths] == ["long.npz", "short.npz"]
    long, short = (load_prepared(path) for path in paths)
    assert long.target.shape == (64, 2, 4, 4)
    assert short.target.shape == (3, 2, 4, 4)  # every second frame of a short clip
    assert np.array_equal(long.target, long.masked)  # nothing is hidden by this mask
    assert long.lips.shape == (64, 50)
    states = torch.arange(1500.0)[:, None, None].expand(-1, 5, 4) + float(long.audio[0, 0, 0])
    wanted = states_for_frames(states, [frame / 25 for frame in range(40)])
    assert np.array_equal(long.audio[:40].astype(np.float32), wanted.numpy())
    before = [path.stat().st_mtime_ns for path in paths]
    prepare()
    assert [path.stat().st_mtime_ns for path in paths] == before
