"""Reads what `torch.save` wrote, without running anything and without believing a size.

A pickle is a program: it names callables, and even the harmless ones among those that torch allows take as
much memory as an argument says (`bytearray`, `torch.FloatTensor`). Here its instructions are interpreted
instead, the few that `torch.save` writes: dictionaries, lists, numbers, text, and plain tensors whose numbers
lie in the file itself.
"""

from __future__ import annotations

import math
import os
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from latentsync.weights.download import plain

PICKLE_BYTES = 16 << 20  # of contents; the released files stay a hundred times below
OLD_PICKLE_BYTES = 4 << 20  # the same of a file from before torch 1.6, which no training of LatentSync wrote
DIRECTORY_BYTES = 4 << 20  # of a zip
INSTRUCTIONS = 1_000_000  # some 2 s
TENSORS = 20_000
MOST_SIDES = 8  # of a tensor
MANY = {"APPEND": "APPENDS", "SETITEM": "SETITEMS"}
OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_PROTOCOL = 1001

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Malformed(ValueError):
    """The file is not what `torch.save` writes. The message follows the file's name: "is cut off"."""


class MoreThanTensors(Malformed):
    """The file names something that is no plain tensor."""


@dataclass(frozen=True, slots=True)
class _Callable:
    """One of the callables that a pickle may name; `call` takes its arguments."""

    call: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers of a tensor or of several, by their name in the file."""

    key: str
    dtype: torch.dtype
    numel: int


# Instructions that push their own argument, or something new and empty.
PUSHED = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"}
)
NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}


@dataclass(slots=True)
class _Interpreter:
    """Runs the instructions of a pickle. Tensors are empty until `fill` gives them their numbers."""

    waiting: list[tuple[Tensor, _Storage, int, tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=list
    )
    instructions: int = 0

    def run(self, data: BytesIO) -> Any:
        """The object that the next pickle in `data` makes; `data` stands behind it afterwards."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            self._count(1)
            name = opcode.name
            if name in PUSHED:
                stack.append(argument)
            elif name in NEW:
                stack.append(NEW[name]())
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in ("TUPLE", "APPENDS", "SETITEMS"):
                items, stack = stack, marks.pop()
                _gather(name, items, stack)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "SETITEM"):
                count = int(name[-1]) if name.startswith("TUPLE") else 1 + (name == "SETITEM")
                items = [stack.pop() for _ in range(count)][::-1]
                _gather(MANY.get(name, "TUPLE"), items, stack)
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(self._named(argument))
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop()))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, _Callable):
                    raise Malformed("is damaged: it calls what cannot be called")
                stack.append(function.call(*arguments))
            elif name == "BUILD":  # attributes of an OrderedDict, such as the versions in a state dict
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise MoreThanTensors("holds an object with attributes")
            elif name not in ("PROTO", "STOP"):
                raise MoreThanTensors(f"holds the instruction {name}")
        return stack.pop()

    def _count(self, instructions: int) -> None:
        """Bound the work: every instruction takes a little memory, and a call as much as its arguments."""
        self.instructions += instructions
        if self.instructions > INSTRUCTIONS:
            raise Malformed(f"has a list of contents of over {INSTRUCTIONS} instructions")

    def _named(self, argument: str) -> Any:
        module, _, name = argument.partition(" ")
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return _Callable(self._dictionary)
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
                return _Callable(self._tensor)
            case "torch._utils._rebuild_parameter":
                return _Callable(lambda data, *_: data)
            case "torch.Size":
                return _Callable(_size)
        raise MoreThanTensors(f"holds {plain(argument.replace(' ', '.'))}")

    def _dictionary(self, pairs: Any = ()) -> dict[Any, Any]:
        """An OrderedDict; Python 2 wrote its items as arguments."""
        self._count(len(pairs))
        table: dict[Any, Any] = {}
        _put(table, pairs)
        return table

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        size, stride = _size(size), _size(stride)
        if not isinstance(storage, _Storage) or type(offset) is not int or len(size) != len(stride):
            raise Malformed("is damaged: it has a tensor without a shape")
        if min((offset, *size, *stride)) < 0 or len(self.waiting) == TENSORS:
            raise Malformed(f"has a tensor of negative size, or over {TENSORS} tensors")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numel:
            raise Malformed("is damaged: a tensor states more numbers than the file has for it")
        tensor = torch.empty(0, dtype=storage.dtype)
        self.waiting.append((tensor, storage, offset, size, stride))
        return tensor

    def fill(self, storages: Mapping[str, torch.UntypedStorage]) -> None:
        """Give every tensor its numbers, which are those of `storages` and no copy."""
        for tensor, storage, offset, size, stride in self.waiting:
            found = storages[storage.key]
            if found.nbytes() < storage.numel * storage.dtype.itemsize:
                raise Malformed("is damaged: it states more numbers than it has")
            tensor.set_(found, offset, size, stride)


def load(path: Path, file: BinaryIO) -> Any:
    """What `torch.save` wrote to `path`, which is open as `file`; tensors are mapped from it.

    Raises:
        Malformed: it is damaged, hostile, or of another program.
        MoreThanTensors: it holds other objects too.
    """
    try:
        start = file.read(4)
        file.seek(0)
        is_zip = start == b"PK\x03\x04"
        if not is_zip and start[:1] != b"\x80":
            raise Malformed("is neither a safetensors nor a torch file")
        return _load_zip(path, file) if is_zip else _load_old(path, file)
    except Malformed:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, EOFError, zipfile.BadZipFile) as error:
        raise Malformed(f"is damaged: {plain(str(error)) or type(error).__name__}") from error


def _load_zip(path: Path, file: BinaryIO) -> Any:
    members = _members(file)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Malformed("is a zip archive without weights")
    folder = pickles[0].removesuffix("data.pkl")
    start, count = members[pickles[0]]
    if count > PICKLE_BYTES:
        raise Malformed(f"has a list of contents of {count} bytes")
    order = members.get(f"{folder}byteorder")
    if order is not None and _bytes_at(file, *order) != b"little":
        raise Malformed("has another byte order than this machine")
    interpreter = _Interpreter()
    content = interpreter.run(BytesIO(_bytes_at(file, start, count)))
    whole = _mapped(path, file)
    spans = {s.key: members[f"{folder}data/{s.key}"] for _, s, *_ in interpreter.waiting}
    interpreter.fill({key: _cut(whole, *span) for key, span in spans.items()})
    return content


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where the bytes of each member of a zip lie: (first, count), none packed or outside the file."""
    try:
        with zipfile.ZipFile(_SmallReads(file)) as archive:
            infos = archive.infolist()
    except NotImplementedError as error:  # of a later version of the format
        raise Malformed("is a zip archive that torch did not write") from error
    size_bytes = os.fstat(file.fileno()).st_size
    if any(info.filename.endswith("/constants.pkl") for info in infos):
        raise Malformed("is a TorchScript program (as I3D's is), not a set of weights")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise Malformed("is a compressed zip archive, which torch does not write")
    stated = sum(max(info.file_size, info.compress_size) for info in infos)
    if stated > size_bytes:
        raise Malformed(f"is damaged: it states {stated} bytes of content in {size_bytes}")
    members = {}
    for info in infos:
        header = _bytes_at(file, info.header_offset, 30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise Malformed("is damaged: a member of the zip is not where its directory states")
        start = (
            info.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        )
        if start + info.file_size > size_bytes:
            raise Malformed("is cut off")
        members[info.filename] = (start, info.file_size)
    return members


class _SmallReads:
    """A file that refuses to be read in large pieces: `zipfile` reads a directory of any size at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable, self._read = file.seek, file.tell, file.seekable, file.read

    def read(self, count: int = -1) -> bytes:
        if count > DIRECTORY_BYTES:
            raise Malformed(f"has a directory of {count} bytes")
        return self._read(count if count >= 0 else DIRECTORY_BYTES)


def _load_old(path: Path, file: BinaryIO) -> Any:
    """The format before torch 1.6: five pickles, then the numbers of each storage behind their count."""
    data = BytesIO(file.read(OLD_PICKLE_BYTES))
    interpreter = _Interpreter()
    try:
        if interpreter.run(data) != OLD_MAGIC or interpreter.run(data) != OLD_PROTOCOL:
            raise Malformed("is a pickle that torch did not write")
        system, content, keys = (interpreter.run(data) for _ in range(3))
    except ValueError as error:
        if isinstance(error, Malformed) or data.tell() < OLD_PICKLE_BYTES:
            raise
        raise Malformed(f"has a list of contents of over {OLD_PICKLE_BYTES} bytes") from error
    if system.get("little_endian") is not True:
        raise Malformed("has another byte order than this machine")
    known = {storage.key: storage for _, storage, *_ in interpreter.waiting}
    whole, offset, storages = _mapped(path, file), data.tell(), {}
    for key in keys:
        numel = int.from_bytes(_bytes_at(file, offset, 8), "little")
        if key not in known or known[key].numel != numel:
            raise Malformed("is damaged: its lists of tensors differ")
        count = numel * known[key].dtype.itemsize
        storages[key] = _cut(whole, offset + 8, count)
        offset += 8 + count
    interpreter.fill(storages)
    return content


def _mapped(path: Path, file: BinaryIO) -> torch.UntypedStorage:
    """The whole file as memory that is read when it is looked at, and never written back."""
    size_bytes = os.fstat(file.fileno()).st_size
    whole: Any = torch.UntypedStorage.from_file(str(path), False, size_bytes)
    return cast(torch.UntypedStorage, whole)


def _cut(whole: torch.UntypedStorage, start: int, count: int) -> torch.UntypedStorage:
    if start + count > whole.nbytes():
        raise Malformed("is cut off")
    piece: torch.UntypedStorage = whole[start : start + count]
    # In old files numbers start at any byte, where not every processor reads them.
    return piece if start % 8 == 0 else piece.clone()


def _bytes_at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _gather(instruction: str, items: list[Any], stack: list[Any]) -> None:
    """Put `items` into a new tuple, or into the list or dictionary on top of the stack."""
    if instruction == "TUPLE":
        stack.append(tuple(items))
    elif instruction == "APPENDS" and isinstance(stack[-1], list):
        stack[-1].extend(items)
    elif instruction == "SETITEMS" and isinstance(stack[-1], dict):
        _put(stack[-1], zip(items[::2], items[1::2], strict=True))
    else:
        raise Malformed("is damaged: it fills what cannot be filled")


def _put(table: dict[Any, Any], pairs: Any) -> None:
    for key, value in pairs:
        if type(key) not in (str, int):  # the hash of a tuple of tuples of tuples takes for ever
            raise Malformed("is damaged: it has keys that are no names")
        table[key] = value


def _size(sides: Any) -> tuple[int, ...]:
    if not isinstance(sides, (tuple, list)) or len(sides) > MOST_SIDES or {*map(type, sides)} - {int}:
        raise Malformed("is damaged: it has a size that is none")
    return tuple(sides)


def _storage(identity: Any) -> _Storage:
    """What a tensor refers to: ("storage", type, key, device, count), and nothing else."""
    kind, dtype, key, _, numel, *view = identity
    if kind != "storage" or not isinstance(dtype, torch.dtype) or view not in ([], [None]):
        raise MoreThanTensors("refers to something outside")
    if type(key) is not str or type(numel) is not int or numel < 0:
        raise Malformed("is damaged: a tensor has no name for its numbers")
    return _Storage(key, dtype, numel)
