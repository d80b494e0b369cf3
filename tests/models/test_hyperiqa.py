"""HyperIQA: the layout of the released file, and what its hyper-network computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentsync.errors import WeightsError
from latentsync.models.hyperiqa import HyperIQA
from latentsync.weights.judges import hyperiqa_from_released


@pytest.fixture(scope="module")
def network() -> HyperIQA:
    torch.manual_seed(0)
    return HyperIQA().eval()


@torch.no_grad()
def test_each_picture_gets_its_own_score(network: HyperIQA) -> None:
    pictures_unit = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    scores = network(pictures_unit)
    assert scores.shape == (2,)
    torch.testing.assert_close(network(pictures_unit[1:]), scores[1:], rtol=1e-4, atol=1e-5)


def test_the_released_layout_is_taken(network: HyperIQA, tmp_path: Path) -> None:
    """As saved by an old torch: counters of batches may be missing, the classifier may be left."""
    tensors = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    shapes = {
        "res.lda1_pool.0.weight": (16, 256, 1, 1),
        "res.lda3_fc.weight": (16, 256),
        "res.lda4_fc.weight": (176, 2048),
        "conv1.4.weight": (112, 512, 1, 1),
        "fc1w_conv.weight": (512, 112, 3, 3),
        "fc4w_conv.weight": (8, 112, 3, 3),
        "fc2b_fc.weight": (56, 112),
        "fc5w_fc.weight": (14, 112),
        "fc5b_fc.weight": (1, 112),
    }
    assert {key: tuple(tensors[key].shape) for key in shapes} == shapes
    path = tmp_path / "koniq_pretrained.pkl"
    torch.save({**tensors, "res.fc.weight": torch.zeros(1, 1)}, path, _use_new_zipfile_serialization=False)
    loaded = hyperiqa_from_released(path)
    picture_unit = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert loaded(picture_unit).equal(network(picture_unit))


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="missing keys"):
        hyperiqa_from_released(tmp_path / "other.pth")
