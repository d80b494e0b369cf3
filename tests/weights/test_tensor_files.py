from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentsync.errors import WeightsError
from latentsync.weights.tensor_files import read_tensors

TENSORS = {"weight": torch.arange(2000.0)}


def write_zip(path: Path) -> None:
    torch.save({"global_step": 3, "state_dict": TENSORS}, path)


def write_bare(path: Path) -> None:
    torch.save(TENSORS, path)


def write_old(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(TENSORS, path)


WRITERS = [write_zip, write_bare, write_old, write_safetensors]


@pytest.mark.parametrize("write", WRITERS)
def test_reads_whatever_the_suffix(write: object, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write(path)  # type: ignore[operator]
    assert torch.equal(read_tensors(path)["weight"], TENSORS["weight"])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_truncated(write: object, share: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write(path)  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"weights\.pt") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>not found</html>", "not a weights file"), (b"\x80\x02junk", "damaged")],
)
def test_not_weights(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_tensors(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        read_tensors(tmp_path / "none.pt")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot read"):
        read_tensors(tmp_path)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": TENSORS, "trap": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="more than tensors"):
        read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


def test_no_tensors_inside(tmp_path: Path) -> None:
    torch.save({"global_step": 3}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_tensors(tmp_path / "weights.pt")
