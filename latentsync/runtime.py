"""Where and how numbers are computed: device, dtype, named random streams."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import torch

from latentsync.errors import UsageError
from latentsync.files import integer_from as integer_from

DeviceName = str  # auto, cpu, cuda, cuda:N or mps; where it says so, several with commas between them
DtypeName = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: DeviceName) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: the device was asked for by name and is not there, or there is no such name.
    """
    kind, colon, number = name.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = {"cuda": gpus > 0, "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [device for device, is_there in present.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    if kind not in present or (colon and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"--device {name}: no such device", hint="use auto, cpu, cuda, cuda:1 or mps")
    if not present[kind]:
        raise UsageError(
            f"--device {name}: this machine has no usable {kind} device",
            hint=f"use --device auto, or one of: {', '.join(usable)}; "
            "a CUDA build of torch is needed for NVIDIA cards",
        )
    if colon and int(number) >= gpus:
        raise UsageError(
            f"--device {name}: this machine has {gpus} CUDA devices", hint=f"use cuda:0 to cuda:{gpus - 1}"
        )
    return torch.device(name)


def choose_devices(names: DeviceName) -> list[torch.device]:
    """The devices called `names`, with commas between them, the first one first.

    Raises:
        UsageError: as `choose_device`, or one is named twice.
    """
    devices = [choose_device(name.strip()) for name in names.split(",")]
    if len(set(devices)) < len(devices):
        raise UsageError(f"--device {names}: one device is named twice", hint="name each device once")
    return devices


def choose_dtype(name: DtypeName, device: torch.device, *, is_exact: bool = False) -> torch.dtype:
    """The number format called `name`.

    "auto" is fp16 on CUDA and MPS. On a CPU it is bf16 where the processor multiplies that itself and
    nothing must be exact, which is 1.6 times as fast at a PSNR of 60 dB; otherwise fp32.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if has_fast_bfloat16() and not is_exact else torch.float32


@cache
def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    ask = getattr(torch.cpu, "get_capabilities", dict)  # an older torch has none
    capabilities: dict[str, bool] = ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def stage_threads() -> Iterator[None]:
    """Let each stage of a stream compute in one thread inside, and networks in one for every other core.

    Stages run side by side: with a pool of threads for each, they wait for one another. A lower number that
    was set before (`OMP_NUM_THREADS`) stays.

    Source: measured; two pools on two cores burn a quarter of the processor time (docs/performance.md).
    """
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(max(1, min(torch_threads, usable_cores() - 1)))
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


def release_memory() -> None:
    """Give the memory that ended work has freed back to the system. Between jobs; it takes about 0.2 s.

    PyAV's frames and their side data refer to each other, so Python frees them late. glibc keeps what is
    freed in a heap for each thread, 100 MB after a job of `sync`, and more with every size of picture.

    Source: measured, docs/reliability.md.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


@dataclass(frozen=True, slots=True)
class Seeds:
    """Named random streams, so that a new draw changes no other draw."""

    root: int
    rank: int = 0

    def generator(self, name: str, *, device: str = "cpu") -> torch.Generator:
        """A generator that depends on (root, rank, name) only.

        Noise is drawn on the CPU and moved, so that one seed gives one video on any device.
        """
        return torch.Generator(device).manual_seed(self.integer(name) >> 1)  # torch takes 63 bits

    def integer(self, name: str) -> int:
        """A number of 64 bits that depends on (root, rank, name) only."""
        return integer_from(f"{self.root}/{self.rank}/{name}")
