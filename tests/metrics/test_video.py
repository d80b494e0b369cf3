from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentsync.metrics.metric import ScoredClip
from latentsync.metrics.networks import load_program
from latentsync.metrics.video import FvdI3d, FvdVideoMae
from latentsync.models.videomae import build_video_encoder
from latentsync.recipe.networks import VideoEncoderConfig
from tests.metrics.conftest import distance

CPU = torch.device("cpu")
Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]


class SmallI3d(nn.Module):
    """Stands in for I3D, with the arguments of its released program."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Conv3d(3, 6, (3, 32, 32), (2, 32, 32))

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert not rescale and not resize and return_features
        assert video.shape[1:] == (3, 16, 224, 224)
        return self.layers(video).relu().mean((2, 3, 4))


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> FvdI3d:
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.save(torch.jit.script(SmallI3d()), path)
    return FvdI3d(lambda: load_program(path), width=6)


@pytest.fixture(scope="module")
def videomae() -> FvdVideoMae:
    torch.manual_seed(0)
    config = VideoEncoderConfig(width=8, depth=1, heads=2, hidden=8, classes=0, picture=28, patch=14)
    encoder = build_video_encoder(config).eval()
    return FvdVideoMae(lambda: encoder, CPU, width=8)


def test_i3d_sees_frames_20_to_35_in_0_to_1(talking: Talking, i3d: FvdI3d) -> None:
    clip = talking()
    others = clip.made_u8.copy()
    others[:20] = others[36:] = 0
    found = i3d.features(clip, "made")
    assert found.shape == (1, 6)
    np.testing.assert_array_equal(i3d.features(replace(clip, made_u8=others), "made"), found)
    white = replace(clip, made_u8=np.full_like(clip.made_u8, 255))
    expected = SmallI3d()(torch.ones(1, 3, 16, 224, 224), False, False, True).detach()
    np.testing.assert_allclose(i3d.features(white, "made"), expected, rtol=1e-5)


def test_a_clip_of_35_frames_is_too_short_for_i3d(talking: Talking, i3d: FvdI3d) -> None:
    clip = talking()
    assert i3d.features(replace(clip, made_u8=clip.made_u8[:36]), "made").shape == (1, 6)
    assert i3d.features(replace(clip, made_u8=clip.made_u8[:35]), "made").shape == (0, 6)


def test_videomae_sees_whole_windows_end_to_end(talking: Talking, videomae: FvdVideoMae) -> None:
    clip = talking()
    assert videomae.features(clip, "made").shape == (3, 8)
    assert videomae.features(replace(clip, made_u8=clip.made_u8[:15]), "made").shape == (0, 8)
    later = replace(clip, made_u8=clip.made_u8[16:])
    np.testing.assert_allclose(
        videomae.features(clip, "made")[1:], videomae.features(later, "made"), atol=1e-6
    )


@pytest.mark.parametrize("name", ["i3d", "videomae"])
def test_real_is_better_than_shifted_and_shifted_than_static(
    name: str, request: pytest.FixtureRequest, talking: Talking, shifted: Change, static: Change
) -> None:
    metric = request.getfixturevalue(name)
    clips = [talking(seed) for seed in range(6)]
    real, late, still = (
        distance(metric, [change(clip) for clip in clips]) for change in (lambda clip: clip, shifted, static)
    )
    assert real == pytest.approx(0, abs=1e-9)
    assert real < late < still


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    from latentsync.errors import WeightsError

    path = tmp_path / "i3d_torchscript.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is not a TorchScript program"):
        load_program(path)
