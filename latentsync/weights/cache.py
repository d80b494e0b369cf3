"""Where weights lie: our cache folder, and torch's hub folder for what other packages look for there."""

from __future__ import annotations

import os
from pathlib import Path

from latentsync.errors import WeightsError
from latentsync.weights.catalog import WeightsEntry, WeightsFile, find_entry


def cache_folder() -> Path:
    """Where released weights are looked for: LATENTSYNC_CACHE, or `latentsync` in the user's cache."""
    chosen = os.environ.get("LATENTSYNC_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "latentsync"


def torch_hub_folder() -> Path:
    """Torch's hub folder, found as `torch.hub.get_dir` does but without loading torch.

    Source: face-alignment, pytorch-fid and torchvision look their files up by name in its `checkpoints`.
    """
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub"


def folder_of(file: WeightsFile) -> Path:
    """The folder that the path of `file` is relative to."""
    return torch_hub_folder() if file.place == "torch-hub" else cache_folder()


def path_of(file: WeightsFile) -> Path:
    """Where `file` is looked for."""
    return folder_of(file) / file.path


def is_present(entry: WeightsEntry) -> bool:
    """Whether every file of `entry` is there. What is in them is not looked at."""
    return all(path_of(file).is_file() for file in entry.files)


def need(name: str) -> Path:
    """The path of the first file of the entry called `name`, which must be there.

    Raises:
        WeightsError: there is no such entry, or one of its files is missing.
    """
    entry = find_entry(name)
    for file in entry.files:
        if not path_of(file).is_file():
            raise WeightsError(
                f"'{name}' is missing: '{path_of(file)}' does not exist; it enables {entry.enables}",
                hint=f"run 'latentsync models pull {name}'",
            )
    return path_of(entry.files[0])
