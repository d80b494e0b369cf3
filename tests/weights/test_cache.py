"""Where weights are looked for, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentsync.errors import WeightsError
from latentsync.weights.cache import cache_folder, is_present, need, path_of, torch_hub_folder
from latentsync.weights.catalog import find_entry


def put(name: str) -> Path:
    path = path_of(find_entry(name).files[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LATENTSYNC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "latentsync"
    monkeypatch.setenv("LATENTSYNC_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"


@pytest.mark.parametrize("variables", [{}, {"TORCH_HOME": "~/t"}, {"XDG_CACHE_HOME": "~/x"}])
def test_the_hub_folder_is_torchs_own(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(torch_hub_folder()) == torch.hub.get_dir()


def test_a_file_is_there_or_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name, folder in (("syncnet-v2", "cache/auxiliary"), ("fan", "torch/hub/checkpoints")):
        assert not is_present(find_entry(name))
        with pytest.raises(WeightsError, match=f"'{name}' is missing: .*; it enables the paper's") as failure:
            need(name)
        assert failure.value.hint == f"run 'latentsync models pull {name}'"
        path = put(name)
        assert path.parent == tmp_path / folder
        assert need(name) == path
        assert is_present(find_entry(name))
