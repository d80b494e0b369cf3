"""One process or many: the accelerator, requests to stop, and failures that other processes cause."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from latentsync.errors import LatentSyncError, MemoryShortage, RecipeError, UsageError
from latentsync.recipe.training import RunTable

_PRECISION = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
_LOST = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "socket")


def make_accelerator(run: RunTable, device: torch.device) -> Accelerator:
    """Join the other processes that `torchrun` started, if any, on `device`. On a CPU, fp16 becomes fp32.

    Raises:
        RecipeError: sharding without several GPUs, or a batch that cannot be shared out.
        UsageError: the machine cannot do that.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run in this process
    plugin = sharding_plugin() if run.sharding == "fsdp" else None
    is_cpu = device.type == "cpu"
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    precision = "no" if is_cpu and run.precision == "fp16" else _PRECISION[run.precision]
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=is_cpu, fsdp_plugin=plugin)
    except ValueError as error:
        raise UsageError(
            f"{run.precision} on {device}: {error}", hint="choose another run.precision or --device"
        ) from error
    if run.sharding == "fsdp" and not accelerator.is_fsdp2:
        raise RecipeError(
            'run.sharding = "fsdp" needs several GPUs', hint="start with torchrun, or use run.sharding=ddp"
        )
    at_once = run.micro_batch_samples * accelerator.num_processes
    if run.batch_samples % at_once:
        raise RecipeError(
            f"run.batch_samples = {run.batch_samples} is not a multiple of {accelerator.num_processes}"
            f" processes x run.micro_batch_samples = {run.micro_batch_samples}",
            hint="lower run.micro_batch_samples",
        )
    return accelerator


def sharding_plugin(*, least_parameters: int = 1_000_000) -> Any:
    """How weights are spread over GPUs: every module of at least `least_parameters` by itself."""
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=least_parameters,
        state_dict_type="FULL_STATE_DICT",
    )


class StopRequest:
    """Remembers the signal, SIGTERM or Ctrl-C, that asked the run to save and stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once
        self.signal = number


@contextmanager
def catching_signals() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of ending at once; the old handlers come back afterwards."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """Ignore signals in a process that reads data: the main process decides when to stop.

    torchrun and job schedulers send SIGTERM to all, while the main process still needs data for its batch.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # One thread each: the processes share the cores.
    torch.set_num_threads(1)


@contextmanager
def explaining(run: RunTable, last_good: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory and losing another process into errors that say what to do.

    Args:
        last_good: names the last checkpoint.

    Raises:
        MemoryShortage: memory ran out.
        LatentSyncError: another process ended.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _shortage(run) from error
    except RuntimeError as error:
        message = str(error).lower()
        if "out of memory" in message or "can't allocate memory" in message:
            raise _shortage(run) from error
        is_lost = any(word in message for word in _LOST) or isinstance(error, torch.distributed.DistError)
        if "dataloader worker" in message:
            raise LatentSyncError(
                f"a data-loading process was killed; {last_good()}",
                hint="memory may have run out: lower --workers; the same command resumes from there",
            ) from error
        if torch.distributed.is_initialized() and is_lost:
            raise LatentSyncError(
                f"another process of this run ended; {last_good()}",
                hint="its error is printed above; the same command resumes from there",
            ) from error
        raise


def _shortage(run: RunTable) -> MemoryShortage:
    half = max(1, run.micro_batch_samples // 2)
    remedy = f"lower run.micro_batch_samples, for example --set run.micro_batch_samples={half}"
    if run.micro_batch_samples == 1:
        remedy = "set run.gradient_checkpointing=true or run.sharding=fsdp"
        if run.gradient_checkpointing:
            remedy = "leave out a loss (weight 0) and its network, or set run.sharding=fsdp on several GPUs"
    elif not run.gradient_checkpointing:
        remedy += ", or --set run.gradient_checkpointing=true"
    is_same = run.micro_batch_samples > 1 or not run.gradient_checkpointing
    return MemoryShortage(
        f"out of memory with {run.micro_batch_samples} samples at once",
        hint=f"{remedy}; the result stays the same" if is_same else remedy,
    )
