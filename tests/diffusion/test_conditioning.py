from __future__ import annotations

import pytest
import torch

from latentsync.diffusion.conditioning import Conditioning
from latentsync.errors import ShapeError


def test_order_of_channels() -> None:
    plane = torch.ones(1, 4, 2, 3, 3)
    joined = Conditioning(mask=plane[:, :1] * 2, masked=plane * 3, reference=plane * 4).join(plane)
    assert joined[0, :, 0, 0, 0].tolist() == [1] * 4 + [2] + [3] * 4 + [4] * 4


@pytest.mark.parametrize(("frames", "channels"), [(3, 1), (2, 4)])
def test_mask_must_fit_the_latents(frames: int, channels: int) -> None:
    plane = torch.ones(1, 4, 2, 3, 3)
    with pytest.raises(ShapeError):
        Conditioning(mask=torch.ones(1, channels, frames, 3, 3), masked=plane, reference=plane)


def test_pictures_instead_of_videos() -> None:
    with pytest.raises(ShapeError, match="expected axes"):
        Conditioning(
            mask=torch.ones(1, 1, 3, 3), masked=torch.ones(1, 4, 3, 3), reference=torch.ones(1, 4, 3, 3)
        )
