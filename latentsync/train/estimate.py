"""What a training will need, found out from its real networks and its real objective, without any numbers.

One batch passes forward and backward on torch's meta device, where tensors have shapes and no values. So a
loss, a network or gradient checkpointing counts here as soon as it counts in training.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsync.events import format_duration
from latentsync.recipe.training import RunTable
from latentsync.train.loop import Batch, Objective, weighted_sum

WEIGHT_BYTES = 4  # of a parameter in fp32; AdamW keeps two more of them, the EMA one
ADAMW_COPIES, EMA_COPIES = 2, 1
# What a training of convolutions reaches of the speed of a matrix product; 0.7 was measured with the
# compact networks on one core.
CPU_EFFICIENCY, GPU_EFFICIENCY = 0.6, 0.3
PROBE_SIDE, PROBE_SIDE_GPU = 512, 4096  # small on a CPU, so that some products finish between two time slices
PROBES = 100


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one process needs. Memory and time are rough: within a factor of two, as a rule.

    frozen_parameters  of the networks that are not trained
    state_bytes        weights, optimizer and EMA
    activation_bytes   at most at once in one micro-batch: activations, gradients and what is short-lived
    """

    device: str
    run: RunTable
    parameters: int
    trained_parameters: int
    frozen_parameters: int
    state_bytes: int
    activation_bytes: int
    operations_per_sample: float
    samples_per_s: float

    @property
    def memory_bytes(self) -> int:
        return self.state_bytes + self.activation_bytes

    @property
    def total_s(self) -> float:
        return self.run.samples / self.samples_per_s

    def lines(self) -> list[str]:
        """The plan of a dry run."""
        trained, frozen = self.trained_parameters / 1e6, self.frozen_parameters / 1e6
        at_once = self.run.micro_batch_samples
        return [
            f"parameters: {self.parameters / 1e6:.2f} million, {trained:.2f} of them trained; {frozen:.2f}"
            " million more in frozen networks",
            f"memory: about {format_bytes(self.memory_bytes)} on each {self.device} device:"
            f" {format_bytes(self.state_bytes)} for weights, optimizer and EMA,"
            f" {format_bytes(self.activation_bytes)} for a micro-batch of {at_once}",
            f"time: about {format_duration(self.total_s)} for {self.run.samples} samples"
            f" ({self.samples_per_s:.3g} per second)",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON."""
        numbers = {name: value for name, value in asdict(self).items() if name not in ("device", "run")}
        return {**numbers, "memory_bytes": self.memory_bytes, "total_s": self.total_s}


def estimate(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    run: RunTable,
    *,
    frozen: Sequence[nn.Module] = (),
    device: torch.device,
    processes: int = 1,
) -> Estimate:
    """Estimate memory and time from one micro-batch that passes forward and backward.

    Args:
        model: on the meta device, with `requires_grad` set as in training.
        batch: a micro-batch, on the meta device.
        frozen: the networks that the objective uses, on the meta device.
        device: where the training would run.
    """
    from torch.utils.flop_counter import FlopCounterMode

    is_half = run.precision != "fp32" and device.type != "cpu"
    resident = [*model.parameters(), *model.buffers(), *batch.values()]
    resident += [value for network in frozen for value in (*network.parameters(), *network.buffers())]
    flops: Any = FlopCounterMode(display=False)
    with _MemoryMode(resident) as memory, flops, _flash_attention(), _no_collection():
        total = weighted_sum(objective.losses(model.train(), batch), objective.weights)
        total.backward()
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in parameters)
    still = sum(parameter.numel() for network in frozen for parameter in network.parameters())
    share = processes if run.sharding == "fsdp" else 1
    copies = ADAMW_COPIES + (EMA_COPIES if run.average_decay else 0)
    state = (every + trained * copies) * WEIGHT_BYTES // share
    gradients = trained * WEIGHT_BYTES
    activations = max(0, memory.peak_bytes - gradients)
    operations = float(flops.get_total_flops()) / run.micro_batch_samples
    efficiency = CPU_EFFICIENCY if device.type == "cpu" else GPU_EFFICIENCY
    speed = _operations_per_s(device, run) * efficiency * processes / max(1.0, operations)
    return Estimate(
        device=device.type,
        run=run,
        parameters=every,
        trained_parameters=trained,
        frozen_parameters=still,
        state_bytes=state + still * WEIGHT_BYTES // (2 if is_half else 1),
        # Autocast halves activations; weights, gradients and optimizer stay in fp32.
        activation_bytes=gradients // share + activations // (2 if is_half else 1),
        operations_per_sample=operations,
        samples_per_s=speed,
    )


class _MemoryMode(TorchDispatchMode):
    """Adds up the bytes of the meta tensors that are alive, and remembers the most at once.

    Args:
        resident: tensors that exist already, which do not count: views of them are no new memory.
    """

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak_bytes = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in resident}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.is_meta:
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return  # a view, or a result in place
        self._known.add(key)
        self.bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.bytes -= nbytes


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Compute attention as CPUs and GPUs do: on the meta device torch would keep the attention matrices.

    The function is replaced, because a mode of torch would not reach what checkpointing computes again.
    """
    original = functional.scaled_dot_product_attention

    def flash(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **rest: Any,
    ) -> Tensor:
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
        return attended

    functional.scaled_dot_product_attention = flash  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep reference cycles, which would be freed at chance moments, so that the estimate is repeatable."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _operations_per_s(device: torch.device, run: RunTable) -> float:
    """How fast the device multiplies matrices in the number format of the run."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = torch.float32 if device.type == "cpu" and run.precision == "fp16" else kinds[run.precision]
    side = PROBE_SIDE if device.type == "cpu" else PROBE_SIDE_GPU
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(PROBES):
        started = time.perf_counter()
        # `item` waits for a GPU, which would otherwise still be computing.
        (matrix @ matrix)[0, 0].item()
        # The fastest counts: other work on the machine can only make a product slower.
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def format_bytes(count: float) -> str:
    """A number of bytes for people.

    >>> format_bytes(3_200_000_000), format_bytes(4_000_000)
    ('3.2 GB', '4 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
