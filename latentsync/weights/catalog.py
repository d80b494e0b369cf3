"""The catalogue of weights: which files there are, where they come from and what they are for."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from latentsync.errors import WeightsError

CATALOG = Path(__file__).with_name("catalog.toml")
COMPACT = "compact"  # the bundled model, which is never fetched

Bytes = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """What has a name in `latentsync models`: a file, its terms, and the entries it is useless without.

    path         relative to the cache folder, or to torch's hub folder
    url, hub     at least one; a file of the hub has `hub_file` and `commit` too
    about_bytes  the rough size, where `size_bytes` is not known
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    name: str
    kind: str
    title: str
    licence: str
    commercial_use: Literal["yes", "no", "unclear"]
    enables: str
    needs: tuple[str, ...] = ()
    path: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)+$")]
    folder: Literal["cache", "torch-hub"] = "cache"
    hub: str | None = None
    hub_file: str | None = None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    url: str | None = None
    size_bytes: Bytes | None = None
    about_bytes: Bytes | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


def load_catalog() -> dict[str, WeightsEntry]:
    """Every entry by its name."""
    tables = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    named = {name: {**table, "name": name} for name, table in tables.items()}
    # Through JSON, where strict checking still takes a list for a tuple.
    return TypeAdapter(dict[str, WeightsEntry]).validate_json(json.dumps(named))


def find_entry(name: str) -> WeightsEntry:
    """The entry called `name`.

    Raises:
        WeightsError: there is none; the nearest known name is offered.
    """
    entries = load_catalog()
    if name in entries:
        return entries[name]
    if name == COMPACT:
        raise WeightsError(
            f"'{name}' is bundled with the package, not in the catalogue", hint="use it as it is"
        )
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    raise WeightsError(
        f"no weights called '{name}'",
        hint=f"did you mean {near[0]}?" if near else f"known names: {', '.join(entries)}",
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
