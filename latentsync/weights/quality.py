"""Weights of the network that judges pictures: HyperIQA."""

from __future__ import annotations

from pathlib import Path

import torch

from latentsync.models.hyperiqa import HyperIQA
from latentsync.weights.checkpoints import assign_strictly
from latentsync.weights.read import read_tensors


def hyperiqa_from_released(path: Path, *, device: torch.device | str = "cpu") -> HyperIQA:
    """Load `koniq_pretrained.pkl`, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = {key: tensor for key, tensor in read_tensors(path).items() if not key.startswith("res.fc.")}
    with torch.device("meta"):
        network = HyperIQA()
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):  # old files lack it; it plays no part in eval mode
            tensors.setdefault(key, torch.zeros(tensor.shape, dtype=tensor.dtype))
    assign_strictly(network, tensors, path, device=device, dtype=torch.float32)
    return network.eval()
