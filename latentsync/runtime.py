"""Where and how numbers are computed: device, dtype, named random streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from latentsync.errors import UsageError
from latentsync.files import integer_from as integer_from

DeviceName = str  # auto, cpu, cuda, cuda:N or mps
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


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The number format called `name`; "auto" is fp16 on CUDA and MPS, fp32 on the CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


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
