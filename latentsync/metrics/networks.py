"""Loads weights on disk into the networks of other packages, so that none of them downloads anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.errors import WeightsError
from latentsync.weights.checkpoints import check_fit
from latentsync.weights.read import name_keys, read_tensors

FEATURES = "features."  # torchvision's name of VGG's convolutions
Network = TypeVar("Network")


def loaded_once(weights: str, load: Callable[[Path], Network]) -> Callable[[], Network]:
    """A function that loads the weights of this name in the catalogue when it is first called."""
    from latentsync.weights.hub import need

    return cache(lambda: load(need(weights)))


@contextmanager
def exactly() -> Iterator[None]:
    """Run networks without gradients, and on a GPU without TF32, which would otherwise be the default.

    With TF32 features depend on the batch in the third digit.
    """
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        yield


def load_inception(path: Path, *, device: torch.device | str = "cpu") -> nn.Module:
    """The Inception of pytorch-fid up to its last pooling, in eval mode.

    It takes pictures (n 3 299 299) in 0..1 and does not resize them.

    Raises:
        WeightsError: the file is damaged, or belongs to another network.
    """
    from latentsync.compat import make_torchvision_importable

    make_torchvision_importable()
    from pytorch_fid import inception

    tensors = read_tensors(path)
    fetch = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *_, **__: tensors  # it would download them
    try:
        network: nn.Module = inception.InceptionV3(resize_input=False)
    except RuntimeError as error:
        message = f"{str(path)!r} does not fit the Inception of pytorch-fid"
        raise WeightsError(message, hint="run 'latentsync models pull inception'") from error
    finally:
        inception.load_state_dict_from_url = fetch
    return network.eval().to(device)


def load_lpips(path: Path, *, device: torch.device | str = "cpu") -> nn.Module:
    """LPIPS 0.1 on VGG-16 with the backbone in `path`, in eval mode; its linear layers are in its package.

    It takes two stacks of pictures (n 3 h w) in -1..1. Of the backbone's file only the convolutions
    are used.

    Raises:
        WeightsError: the file is damaged, or belongs to another network.
    """
    from latentsync.compat import make_torchvision_importable

    make_torchvision_importable()
    import lpips
    import torchvision

    tensors = read_tensors(path)
    own = {key.removeprefix(FEATURES): tensor for key, tensor in tensors.items() if key.startswith(FEATURES)}
    with torch.device("meta"), warnings.catch_warnings():  # meta: it would draw 138 million random numbers
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in an older way
        check_fit(torchvision.models.vgg16(weights=None).features, own, path)
        network: nn.Module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    linear = read_tensors(Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth")
    module_of = {name.rpartition(".")[2]: name for name, _ in network.named_modules() if "net.slice" in name}
    backbone = {f"{module_of[key.partition('.')[0]]}.{key.partition('.')[2]}": own[key] for key in own}
    network.load_state_dict(backbone | linear, strict=False, assign=True)
    unknown = {name for name, tensor in network.state_dict().items() if tensor.is_meta}
    if unknown:
        hint = "install lpips 0.1.4"
        raise WeightsError(f"this version of lpips has other layers: {name_keys(unknown)}", hint=hint)
    return network.eval().requires_grad_(False).to(device)


def load_program(path: Path, *, device: torch.device | str = "cpu") -> Any:
    """A TorchScript program, in eval mode. It is executed: give only files from people you trust.

    Raises:
        WeightsError: the file is missing, or is no TorchScript program.
    """
    try:
        program: Any = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError, OSError) as error:
        message = f"{str(path)!r} is not a TorchScript program that can be read"
        raise WeightsError(message, hint="give a file that torch.jit.save wrote") from error
    return program.eval()


def pictures_unit(crops_u8: NDArray[np.uint8], *, device: torch.device | str) -> Tensor:
    """RGB pictures (n h w c) in 0..255 to a float tensor (n c h w) in 0..1 on `device`."""
    return torch.from_numpy(np.ascontiguousarray(crops_u8)).to(device).movedim(-1, 1).float() / 255  # n c h w
