"""Makes torchvision importable beside a CPU-only torch, which lacks the operators it registers against.

torchvision's published wheels are built against a CUDA torch; beside a CPU torch `import torchvision` stops
at `operator torchvision::nms does not exist`, and with it diffusers and transformers.

Source: measured with torch 2.13.0 and torchvision 0.28.0.
"""

from __future__ import annotations

import importlib
import sys

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
