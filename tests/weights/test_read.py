from __future__ import annotations

import json
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.weights.read import (
    forget_pages,
    mapped_spans,
    read_content,
    read_metadata,
    read_tensors,
    write_tensors,
)

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
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "a web page"),
        (b"\x80\x02junk", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04 and no directory", "damaged"),
        (b"junk", "neither a safetensors nor a torch file"),
    ],
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
    with pytest.raises(WeightsError, match="is a folder"):
        read_tensors(tmp_path)


def test_no_tensors_inside(tmp_path: Path) -> None:
    torch.save({"global_step": 3}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_tensors(tmp_path / "weights.pt")


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_what_lies_beside_the_weights(wrapper: str, tmp_path: Path) -> None:
    torch.save({"global_step": 3, "dims": {"n": 1}, wrapper: TENSORS}, tmp_path / "weights.pt")
    content = read_content(tmp_path / "weights.pt")
    assert content.tensors.keys() == TENSORS.keys()
    assert content.beside == {"global_step": 3, "dims": {"n": 1}}


def test_a_length_that_looks_like_another_format(tmp_path: Path) -> None:
    for length in (0x3C, 0x0280, 0x0480, 0x1F8B):  # "<", two pickles, gzip
        header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        if len(header) > length:
            header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        path = tmp_path / f"{length}"
        path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + struct.pack("<f", 2.5))
        assert next(iter(read_tensors(path).values())).item() == 2.5


def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "i3d_torchscript.pt")
    with pytest.raises(WeightsError, match="a TorchScript program"):
        read_tensors(tmp_path / "i3d_torchscript.pt")


def test_a_stray_among_the_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": {**TENSORS, "name": "unet"}}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"not tensors: 1 \(name\)"):
        read_tensors(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"weight": torch.ones(2, dtype=torch.complex64)},
            "holds torch.ComplexFloatStorage; only tensors",
        ),
        ({"weight": torch.ones(2, 2).to_sparse()}, "holds torch._utils._rebuild_sparse_tensor"),
        ({"weight": torch.empty(2, device="meta")}, "holds torch._utils._rebuild_meta_tensor"),
        ({"weight": torch.ones(1).expand(10**5, 10**5)}, "states 40000000000 bytes of tensors in"),
        ({"two\nlines": torch.ones(1)}, "a key that is not a name"),
        ({7: torch.ones(1)}, "a key that is not a name"),
    ],
)
def test_tensors_that_are_not_taken(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / "weights.pt")


def hostile_zip(path: Path, *, packed: bool) -> None:
    """A torch file with a member of 64 MB more, packed or overstated in the directory."""
    write_zip(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data/9", bytes(1 << 26) if packed else b"four")
        if not packed:
            archive.infolist()[-1].file_size = archive.infolist()[-1].compress_size = 1 << 40


def hostile_header(path: Path, *, length: int, content: bytes) -> None:
    path.write_bytes(struct.pack("<Q", length) + content)


def hostile_pickle(path: Path) -> None:
    write_old(path)
    path.write_bytes(path.read_bytes()[:60].split(b"(")[0] + b"]" * (5 << 20))


def overstated_storage(path: Path) -> None:
    write_old(path)
    path.write_bytes(path.read_bytes().replace(b"M\xd0\x07", b"\x8a\x06\0\0\0\0\0\x02"))


def pickled(path: Path, instructions: bytes) -> None:
    """A torch file whose list of contents is `instructions`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + instructions + b".")


def of_3_gib(name: bytes) -> bytes:
    """A call of `name` with 3 GiB for its size."""
    return b"c" + name + b"\n\x8a\x05\0\0\0\xc0\0\x85R"


def tuple_of_tuples(times: int) -> bytes:
    """A tuple of twice a tuple of twice a tuple, and so on, as a key: its hash takes 2 ** times steps."""
    doubled = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(times))
    return b")q\0" + doubled + b"}h%cK\1s" % times


def directory_of_many(path: Path) -> None:
    """A zip that states a directory of 64 MB."""
    write_zip(path)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    entries, size = struct.pack("<2H", 65535, 65535), struct.pack("<2I", 64 << 20, 0)
    path.write_bytes(content[:4] + bytes(64 << 20) + content[end : end + 8] + entries + size + b"\0\0")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "compressed zip": lambda path: hostile_zip(path, packed=True),
    "overstated zip": lambda path: hostile_zip(path, packed=False),
    "large directory": directory_of_many,
    "long header": lambda path: hostile_header(path, length=1 << 40, content=b'{"a":'),
    "large header": lambda path: hostile_header(path, length=64 << 20, content=b"{" + bytes(64 << 20)),
    "deep header": lambda path: hostile_header(path, length=1 << 20, content=b'{"a":' + b"[" * (1 << 20)),
    "endless pickle": hostile_pickle,
    "overstated storage": overstated_storage,
    "bytearray": lambda path: pickled(path, of_3_gib(b"__builtin__\nbytearray")),
    "tensor by size": lambda path: pickled(path, of_3_gib(b"torch\nFloatTensor")),
    "storage by size": lambda path: pickled(path, of_3_gib(b"torch.storage\nUntypedStorage")),
    "dictionary by size": lambda path: pickled(path, of_3_gib(b"collections\nOrderedDict")),
    "large tuples": lambda path: pickled(
        path, b"](" + b"K\1" * 100_000 + b"eq\0" + b"ctorch\nSize\nh\0\x85R" * 100_000
    ),
    "large dictionaries": lambda path: pickled(
        path,
        b"X\1\0\0\0aK\1\x86q\1]("
        + b"h\1" * 100_000
        + b"eq\0"
        + b"ccollections\nOrderedDict\nh\0\x85R" * 100_000,
    ),
    "many instructions": lambda path: pickled(path, b"]" * (8 << 20)),
    "many digits": lambda path: pickled(path, b"I" + b"9" * (1 << 20) + b"\n"),
    "keys of keys": lambda path: pickled(path, tuple_of_tuples(60)),
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_no_memory(name: str, tmp_path: Path) -> None:
    HOSTILE[name](tmp_path / "weights.pt")
    before_mb = start_peak_mb()
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "weights.pt")
    assert peak_mb() - before_mb < 200


def start_peak_mb() -> float:
    """Let the kernel's mark start again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


class Trap:
    """Makes a file where it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_no_code_is_run_wherever_it_stands(is_zip: bool, tmp_path: Path) -> None:
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "weights.pt"
    for content in (trap, {"state_dict": TENSORS, "other": [trap]}, {"state_dict": {"weight": trap}}):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(WeightsError, match="only tensors"):
            read_tensors(path)
    path.write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(WeightsError):
        read_tensors(path)
    assert list(tmp_path.iterdir()) == [path]


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "drop", "repeat"]),
        st.floats(0, 1),
        st.booleans(),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, mutations: list[tuple[str, float, bool, bytes]]) -> bytes:
    """Damage `content`, half of the time within its first 700 bytes, where the formats keep their tables."""
    for how, where, is_early, new in mutations:
        at = int(where * min(len(content), 700 if is_early else len(content)))
        match how:
            case "flip":
                content = content[:at] + new + content[at + len(new) :]
            case "cut":
                content = content[:at] if not is_early else content
            case "insert":
                content = content[:at] + new + content[at:]
            case "drop":
                content = content[:at] + content[at + len(new) :]
            case _:
                content = content[:at] + content[at : at + 50] + content[at:]
    return content


@pytest.mark.parametrize("write", WRITERS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mutations=MUTATIONS)
def test_damage_of_any_kind(
    write: Callable[[Path], None], mutations: list[tuple[str, float, bool, bytes]], tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    write(path)
    path.write_bytes(mutate(path.read_bytes(), mutations))
    try:
        tensors = read_tensors(path)
    except WeightsError as error:
        assert "\n" not in str(error)
        assert error.hint
    else:
        assert sum(math.prod(tensor.shape) for tensor in tensors.values()) <= 2 * path.stat().st_size
        for tensor in tensors.values():
            tensor.sum()  # every number can be read
    assert list(tmp_path.iterdir()) == [path]


def test_writing_one_tensor_after_the_other(tmp_path: Path) -> None:
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "half": torch.ones(3).half(),
        "scalar": torch.tensor(2.5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
    }
    path = tmp_path / "new" / "weights.safetensors"
    assert write_tensors(path, tensors, {"note": "näher"}) == path.stat().st_size
    for key, tensor in load_file(path).items():
        assert torch.equal(tensor, tensors[key])
    assert read_metadata(path) == {"note": "näher"}
    assert read_tensors(path).keys() == tensors.keys()


def test_writing_another_number_format(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"weight": torch.ones(2), "steps": torch.tensor(3)}, {}, dtype=torch.bfloat16)
    assert {key: tensor.dtype for key, tensor in read_tensors(path).items()} == {
        "weight": torch.bfloat16,
        "steps": torch.int64,
    }


@pytest.mark.parametrize(
    ("number", "dtype", "message"),
    [
        (70000.0, torch.float16, "'weight' has a value of 70000, but the limit of fp16 is 65504"),
        (3.4e38, torch.bfloat16, "'weight' has a value of 3.4e.38, but the limit of bf16 is"),
        (math.inf, torch.float32, "'weight' has NaN or infinite values"),
    ],
)
def test_numbers_that_do_not_fit(number: float, dtype: torch.dtype, message: str, tmp_path: Path) -> None:
    tensors: Mapping[str, Tensor] = {"fine": torch.ones(2), "weight": torch.tensor([1.0, number])}
    with pytest.raises(WeightsError, match=message):
        write_tensors(tmp_path / "weights.safetensors", tensors, {}, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
@pytest.mark.parametrize("write", [write_zip, write_safetensors])
def test_pages_are_given_back_and_read_again(write: Callable[[Path], None], tmp_path: Path) -> None:
    path, numbers = tmp_path / "weights", torch.arange(4_000_000.0)
    save_file({"weight": numbers}, path) if write is write_safetensors else torch.save(
        {"weight": numbers}, path
    )
    mapped = read_tensors(path)["weight"]
    before_mb = start_peak_mb()
    assert torch.equal(mapped, numbers)
    assert peak_mb() - before_mb > 10
    forget_pages(mapped, mapped_spans(path))
    assert start_peak_mb() - before_mb < 5
    assert torch.equal(mapped, numbers)


def test_memory_of_other_origin_is_left_alone(tmp_path: Path) -> None:
    numbers = torch.ones(1_000_000)
    write_zip(tmp_path / "weights.pt")
    forget_pages(numbers, mapped_spans(tmp_path / "weights.pt"))
    assert numbers.sum().item() == 1_000_000
