"""Networks that a training uses: found by name, recorded by content in its checkpoint, required later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.errors import WeightsError
from latentsync.files import sha256_of
from latentsync.weights.catalog import COMPACT, load_catalog
from latentsync.weights.hub import need, path_of

BUNDLED = Path(__file__).parent.parent / "bundled"
BUNDLED_FILES = {
    "start": "unet.safetensors",
    "vae": "vae.safetensors",
    "whisper": "whisper-tiny-en.safetensors",
    "syncnet": "syncnet.safetensors",
    "temporal": "syncnet.safetensors",
}
HOW_TO_MAKE = {
    "start": "train stage 1 first with 'latentsync train-unet --recipe stage1'",
    "syncnet": "train one first with 'latentsync train-syncnet'",
}
# What a folder of weights holds, in the layouts of diffusers and of Hugging Face's transformers.
IN_FOLDERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors")
SHOWN_DIGITS = 12
TITLES = {"vae": "VAE", "whisper": "Whisper"}


@dataclass(frozen=True, slots=True)
class UsedNetwork:
    """A network that a training used beside the one it trained.

    use     what for: "vae", "whisper", "syncnet", "temporal", "perceptual"
    name    as in the recipe: "compact", a name of the catalogue, or a path
    sha256  of its weights file; empty in checkpoints before version 0.1, which name no contents
    """

    use: str
    name: str
    sha256: str


def find_named(name: str, *, use: str, key: str) -> Path:
    """The weights that a recipe names: "compact", an entry of `latentsync models list`, or a path.

    Args:
        use: what for; "compact" is another bundled file for each.
        key: of the recipe, for the error.

    Raises:
        WeightsError: the file is missing, or the name means nothing.
    """
    if name == COMPACT and use in BUNDLED_FILES:
        return BUNDLED / BUNDLED_FILES[use]
    if name in load_catalog():
        return need(name)
    if not Path(name).exists():
        raise WeightsError(
            f"{key} = '{name}': neither a name of 'latentsync models list' nor an existing file",
            hint=f"{HOW_TO_MAKE.get(use, 'check the path')}, or give another with --set {key}=PATH",
        )
    return Path(name)


def weights_file(path: Path) -> Path:
    """The file that holds the weights: `path`, or the one in the folder `path` (or in its folder `vae`)."""
    if not path.is_dir():
        return path
    inside = (path / inner / name for inner in ("", "vae") for name in IN_FOLDERS)
    return next((file for file in inside if file.is_file()), path)


def record_networks(names: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """What a checkpoint states about the networks it was trained with, by use; `used_networks` reads it.

    Args:
        names: as the recipe names them, by use.
        files: where they are, by use.
    """
    return {
        use: {"name": name, "sha256": sha256_of(weights_file(files[use]))}
        for use, name in sorted(names.items())
        if use in files and use != "start"
    }


def used_networks(facts: Mapping[str, Any]) -> dict[str, UsedNetwork]:
    """The networks that the facts of a checkpoint name, by use; a malformed entry is left out."""
    noted = facts.get("networks")
    if not isinstance(noted, dict):  # before version 0.1
        noted = {use: {"name": facts[use], "sha256": ""} for use in ("vae", "whisper") if use in facts}
    return {
        use: UsedNetwork(use, str(entry.get("name")), entry["sha256"])
        for use, entry in noted.items()
        if isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
    }


def find_used(network: UsedNetwork, *, beside: Sequence[Path], model: str) -> Path:
    """The weights that a model was trained with, by their content: beside it, or where they were in training.

    Args:
        beside: where to look first; the first of them is where it can be put.
        model: its name, for the error.

    Raises:
        WeightsError: they are nowhere; the message names them and every file with other contents.
    """
    beside, others = list(beside), []
    for path in [*beside, _as_named(network)]:
        file = weights_file(path)
        if file.is_file():
            if not network.sha256 or sha256_of(file) == network.sha256:
                return path
            others.append(f"'{file}'")
    title = TITLES.get(network.use, network.use)
    content = f", SHA-256 {network.sha256[:SHOWN_DIGITS]}…" if network.sha256 else ""
    raise WeightsError(
        f"model '{model}': its {title} is missing: it was trained with '{network.name}'{content}"
        + (f", and {' and '.join(others)} is another one" if others else ""),
        hint=_how_to_get(network, beside[0]),
    )


def _as_named(network: UsedNetwork) -> Path:
    if network.name == COMPACT and network.use in BUNDLED_FILES:
        return BUNDLED / BUNDLED_FILES[network.use]
    entry = load_catalog().get(network.name)
    return Path(network.name) if entry is None else path_of(entry)


def _how_to_get(network: UsedNetwork, beside: Path) -> str:
    if network.name == COMPACT:
        return f"use the version of latentsync that it was trained with, or put its file there as '{beside}'"
    if network.name in load_catalog():
        return f"run 'latentsync models pull {network.name}'"
    return f"put the file it was trained with there as '{beside}'"
