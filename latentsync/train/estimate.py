"""What a run will need, found out without running it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentsync.recipe.training import RunTable

STATE_BYTES = 20  # per parameter in fp32: weight, gradient, two of AdamW, the moving average
BACKWARD_SHARE = 3  # the way back costs two ways forth
EFFICIENCY = 0.3  # of what a plain product of matrices reaches, for a network of convolutions
PROBE_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one process needs. Activations and time are rough: within a factor of two, as a rule."""

    parameters: int
    state_bytes: int
    activation_bytes: int
    operations_per_sample: float
    samples_per_s: float
    total_s: float

    @property
    def memory_bytes(self) -> int:
        return self.state_bytes + self.activation_bytes


def estimate(
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Tensor, ...]],
    run: RunTable,
    *,
    device: torch.device,
    processes: int = 1,
) -> Estimate:
    """Estimate memory and time of a training run from one sample that is computed without any numbers.

    Args:
        build: makes the network; called on torch's meta device.
        inputs: makes the network's inputs for one sample.
    """
    from torch.utils.flop_counter import FlopCounterMode

    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[id(tensor.untyped_storage())] = tensor.numel() * tensor.element_size()
        kept.append(tensor)  # so that no other tensor gets its number
        return tensor

    kept: list[Tensor] = []
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network = build().eval()  # BatchNorm takes no single sample in training
        own = {id(parameter.untyped_storage()) for parameter in network.parameters()}
        with FlopCounterMode(display=False) as counter:
            network(*inputs())
    activations = sum(size for storage, size in saved.items() if storage not in own)
    if run.precision != "fp32" and device.type != "cpu":
        activations //= 2
    parameters = sum(parameter.numel() for parameter in network.parameters())
    operations = float(counter.get_total_flops()) * BACKWARD_SHARE
    if run.gradient_checkpointing:
        operations *= 4 / 3
    speed = _operations_per_s(device, run) * EFFICIENCY * processes / max(1.0, operations)
    share = processes if run.sharding == "fsdp" else 1
    return Estimate(
        parameters=parameters,
        state_bytes=parameters * STATE_BYTES // share,
        activation_bytes=activations * run.micro_batch_samples,
        operations_per_sample=operations,
        samples_per_s=speed,
        total_s=run.samples / speed,
    )


def _operations_per_s(device: torch.device, run: RunTable) -> float:
    """How fast the device multiplies matrices in the number format of the run."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = torch.float32 if device.type == "cpu" and run.precision == "fp16" else kinds[run.precision]
    matrix = torch.ones(PROBE_SIDE, PROBE_SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * PROBE_SIDE**3 / best


def say_bytes(count: float) -> str:
    """A number of bytes for people.

    >>> say_bytes(3_200_000_000), say_bytes(4_000_000)
    ('3.2 GB', '4 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def say_duration(seconds: float) -> str:
    """A duration for people.

    >>> say_duration(90), say_duration(7200), say_duration(400_000)
    ('2 min', '2.0 h', '4.6 days')
    """
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
