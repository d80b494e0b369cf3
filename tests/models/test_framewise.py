from __future__ import annotations

import pytest
import torch

from latentsync.errors import ShapeError
from latentsync.models.framewise import build_framewise, cut_region
from tests.networks import BUNDLED_SYNCNET

TINY = BUNDLED_SYNCNET.replaced(
    frames=10,
    region_unit=(0.5, 1.0, 0.25, 0.75),
    rows=16,
    columns=16,
    channels=(4, 8),
    speech_width=8,
    width=8,
    dimension=6,
    whisper_dim=4,
    whisper_states=2,
)


def test_every_window_of_a_run_is_embedded_by_itself() -> None:
    torch.manual_seed(0)
    net = build_framewise(TINY).eval()
    frames, states = torch.randn(2, 3, 14, 16, 16), torch.randn(2, 28, 2, 4)
    with torch.inference_mode():
        visual, audio = net.embed_frames(frames), net.embed_speech(states)
        alone = net.embed_frames(frames[:, :, 3:13])
    assert visual.shape == audio.shape == (2, 5, 6)
    torch.testing.assert_close(visual[:, 3:4], alone)
    torch.testing.assert_close(visual.norm(dim=2), torch.ones(2, 5))


def test_speech_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match="axis d"):
        build_framewise(TINY).embed_speech(torch.zeros(1, 28, 2, 5))


@pytest.mark.parametrize(
    "wrong", [{"region_unit": (0.5, 0.5, 0.0, 1.0)}, {"frames": 9}], ids=["empty region", "short window"]
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        BUNDLED_SYNCNET.replaced(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [32, 64])
def test_region_is_the_same_share_of_crops_of_any_size(side: int) -> None:
    crops = torch.zeros(1, 3, side, side)
    crops[:, :, side // 2 :, side // 4 : 3 * side // 4] = 1.0
    assert cut_region(crops, TINY).shape == (1, 3, 16, 16)
    assert cut_region(crops, TINY).min() == 1.0
