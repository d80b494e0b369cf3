"""Weights of the small networks that look at faces, which come in the package."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from latentsync.errors import WeightsError

FOLDER = Path(__file__).parent.parent / "bundled"
NetworkT = TypeVar("NetworkT", bound=nn.Module)


def load_bundled(net: NetworkT, path: Path, *, name: str, recipe: str) -> NetworkT:
    """Give `net` the weights in `path`, stored at half precision.

    Args:
        name: of the network, in messages.
        recipe: trains it.

    Raises:
        WeightsError: the file is missing or holds something else.
    """
    try:
        net.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: does not hold the weights of the {name} network",
            hint=f"reinstall the package, or train them with the recipe {recipe}",
        ) from error
    return net
