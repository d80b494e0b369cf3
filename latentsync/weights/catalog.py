"""The catalogue of weights: which files there are, where they come from and what they are for."""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from latentsync.errors import WeightsError

CATALOG = Path(__file__).with_name("catalog.toml")
COMPACT = "compact"  # the model that is never fetched
FORBIDDEN_IN_PATHS = frozenset('\\:*?"<>|\0')  # refused on every system, so that a catalogue works on each
STRICT = ConfigDict(strict=True, extra="forbid")

Word = Annotated[str, Field(min_length=1)]
Bytes = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """One file: where it lies, where it comes from, and how it is recognised.

    path         relative to the cache folder, or to torch's hub folder
    url, hub     at least one; a hub file has `hub_file` and `revision` too
    about_bytes  the rough size, where `size_bytes` is not known
    sha256       lower-case digits: all 64, or the first ones where only those are known
    """

    __pydantic_config__ = STRICT

    path: Word
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+/\S+$")] | None = None
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    hub_file: Word | None = None
    revision: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    size_bytes: Bytes | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    about_bytes: Bytes | None = None
    place: Literal["cache", "torch-hub"] = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """What has a name in `latentsync models`: its files, its terms, and the entries it is useless without."""

    __pydantic_config__ = STRICT

    name: str
    kind: Word
    title: Word
    files: Annotated[tuple[WeightsFile, ...], Field(min_length=1)]
    licence: Word
    commercial_use: Literal["yes", "no", "unclear"]
    enables: Word
    needs: tuple[str, ...] = ()


def load_catalog(path: Path | None = None) -> dict[str, WeightsEntry]:
    """Read the catalogue at `path`, or the shipped one, strictly.

    Raises:
        WeightsError: the file cannot be read, is not TOML, or a key is missing, unknown or wrong.
    """
    path = path or CATALOG
    tables = _read(path)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _fault(path, name, "expected a table for each entry")
        if "name" in table:
            raise _fault(path, f"{name}.name", "no such key: the table's own name is the name")
        table["name"] = name
    try:
        # Through JSON, where strict checking still takes a list for a tuple.
        text = json.dumps(tables, default=repr)
        entries = _schema().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _fault(path, ".".join(str(part) for part in first["loc"]), _say(first["msg"])) from error
    except ValueError as error:  # a lone surrogate, which JSON cannot hold
        raise _fault(path, "", f"cannot be used: {error}") from error
    _check(entries, path)
    return entries


def find_entry(name: str) -> WeightsEntry:
    """The entry called `name`.

    Raises:
        WeightsError: there is none; the nearest known name is offered.
    """
    entries = load_catalog()
    if name in entries:
        return entries[name]
    if name == COMPACT:
        raise WeightsError(f"'{name}' is inside the package, not in the catalogue", hint="use it as it is")
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    raise WeightsError(
        f"no weights called '{name}'",
        hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(entries)}",
    )


def with_needs(names: Iterable[str]) -> list[WeightsEntry]:
    """The entries called `names`, each followed by what it needs; none twice.

    Raises:
        WeightsError: a name is not in the catalogue.
    """
    found: dict[str, WeightsEntry] = {}
    waiting = list(names)
    while waiting:
        entry = find_entry(waiting.pop(0))
        if entry.name not in found:
            found[entry.name] = entry
            waiting = [*entry.needs, *waiting]
    return list(found.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _fault(path, "", f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _fault(path, "", "is not a text file in UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _fault(path, "", f"is not valid TOML: {error}") from error


@functools.cache
def _schema() -> TypeAdapter[dict[str, WeightsEntry]]:
    return TypeAdapter(dict[str, WeightsEntry])


def _check(entries: dict[str, WeightsEntry], path: Path) -> None:
    """What a schema cannot say: safe paths, complete sources, known needs, one meaning for one file."""
    seen: dict[tuple[str, str], WeightsFile] = {}
    for name, entry in entries.items():
        if unknown := sorted(set(entry.needs) - entries.keys()):
            raise _fault(path, f"{name}.needs", f"no entry called '{unknown[0]}'")
        for number, file in enumerate(entry.files):
            key = f"{name}.files.{number}"
            if not _is_safe(file.path):
                raise _fault(path, f"{key}.path", f"{file.path!r} does not stay inside its folder")
            if file.hub is None and file.url is None:
                raise _fault(path, key, "neither url nor hub says where it comes from")
            if (file.hub is None) != (file.hub_file is None) or (file.hub is None) != (file.revision is None):
                raise _fault(path, key, "hub, hub_file and revision belong together")
            if seen.setdefault((file.place, file.path.lower()), file) != file:
                raise _fault(path, key, f"{file.path!r} is described twice, differently")


def _is_safe(path: str) -> bool:
    """Whether `path` stays below the folder it is joined to, on every system."""
    parts: Sequence[str] = PurePosixPath(path).parts
    is_plain = path == "/".join(parts) and not path.startswith("/")
    return is_plain and ".." not in parts and not FORBIDDEN_IN_PATHS & set(path) and path.isprintable()


def _fault(path: Path, key: str, message: str) -> WeightsError:
    where = f"'{path.name}': {key}" if key else f"'{path.name}'"
    return WeightsError(
        f"{where}: {message}", hint="install latentsync again: the catalogue of weights is damaged"
    )


def _say(message: str) -> str:
    return message[:1].lower() + message[1:]
