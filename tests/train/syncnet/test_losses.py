"""The SyncNet's losses: the reference's numbers, and nothing that is not a number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentsync.train.losses import matrix_losses, sync_loss


@pytest.mark.parametrize("case", ["syncnet_16_pixel", "syncnet_16_pixel_attn", "syncnet_16_latent"])
def test_bce_is_the_reference_s(golden: Path, case: str) -> None:
    expected = load_file(golden / f"{case}.safetensors")
    cosine = (expected["vision"] * expected["audio"]).sum(-1)
    label = torch.tensor([1.0, 0.0])[: len(cosine)]
    assert torch.allclose(sync_loss(cosine, label), expected["bce"], rtol=1e-4)


@pytest.mark.parametrize("cosine", [-1.0, 0.0, 1.0, 1.0000001])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_no_cosine_makes_it_nan(cosine: float, label: float) -> None:
    given = torch.tensor([cosine], dtype=torch.float16, requires_grad=True)
    loss = sync_loss(given, torch.tensor([label])).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert given.grad is not None and not given.grad.isnan().any()


def test_a_matrix_counts_far_pairs_only() -> None:
    cosines = torch.full((1, 3, 3), 0.5)
    cosines[0, 0, 1] = 0.999  # near in time: not to be called wrong
    is_negative = torch.tensor([[[False, False, True], [False, False, True], [True, True, False]]])
    losses = matrix_losses(cosines, is_negative, temperature=torch.tensor(1.0))
    assert losses["bce"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses["contrastive"].item() == pytest.approx(losses["chance"].item(), abs=1e-6)
    assert losses["chance"].item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3, abs=1e-6)


def test_the_right_speech_lowers_both() -> None:
    cosines = torch.eye(4)[None] * 0.8 + 0.1
    is_negative = ~torch.eye(4, dtype=torch.bool)[None]
    losses = matrix_losses(cosines, is_negative, temperature=torch.tensor(0.1))
    assert losses["bce"] < 0.2 and losses["contrastive"] < 0.1 < losses["chance"]
