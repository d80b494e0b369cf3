"""Recipes from files, names and `--set`: found, merged, checked and written back."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from latentsync.errors import MediaError, RecipeError
from latentsync.files import open_regular
from latentsync.recipe.schema import Recipe

RecipeT = TypeVar("RecipeT", bound=BaseModel)
Key = tuple[str, ...]
ABOUT_THE_FILE = ("kind", "extends")  # keys that no schema has
MOST_BYTES = 1 << 18  # a recipe has some 5,000
_MOST_DEPTH = 32
# tomllib takes time and memory with the square of a dotted key's length, so such a key must not reach it.
# Quantifiers are possessive and a match starts where a name does, so that looking for one takes linear time.
_LONG_KEY = re.compile(
    rf"""(?<![\w"'\\-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_MOST_DEPTH}}}"""
)


@dataclass
class _Merged:
    """Values of a recipe and its parents, and for every key the file or flag that set it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)

    def put(self, values: dict[str, Any], origin: str, *, at: Key = ()) -> None:
        """Lay `values` over what is there: tables are merged, everything else is replaced."""
        table = self.values
        for name in at:
            table = table.setdefault(name, {})
        for name, value in values.items():
            key = (*at, name)
            self.origins[key] = origin
            if isinstance(value, dict) and isinstance(table.get(name, {}), dict):
                table.setdefault(name, {})
                self.put(value, origin, at=key)
            else:
                table[name] = value

    def origin(self, key: Key, *, otherwise: str) -> str:
        """The file or flag that set `key`, or the nearest table above it."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key, otherwise)


_EXTENDS = re.compile(r'^(extends\s*=\s*)"[^"]*"', re.MULTILINE)


def bundled_folder() -> Path:
    """The folder of bundled recipes: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def bundled_names() -> list[str]:
    """The names that `load_recipe` finds without a path, such as `sync` or `compact/stage1`."""
    folder = bundled_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml"))


def bundled_text(name: str) -> str:
    """The text of the bundled recipe of that name; `extends` names its parent so that any folder finds it.

    Raises:
        RecipeError: there is none.
    """
    if name not in bundled_names():
        _refuse_unknown(name)
    path = bundled_folder() / f"{name}.toml"
    text = path.read_text(encoding="utf-8")
    if len(files := _lineage(path)) == 1:
        return text
    parent = files[1].resolve().relative_to(bundled_folder().resolve()).with_suffix("").as_posix()
    return _EXTENDS.sub(lambda match: f'{match[1]}"{parent}"', text, count=1)


def load_recipe(name_or_path: str | Path, kind: type[RecipeT], *, overrides: Sequence[str] = ()) -> RecipeT:
    """Read the recipe at a path, or the bundled one of that name, and check it against `kind`.

    Args:
        name_or_path: a file, or a bundled name with or without `.toml`. A file wins.
        kind: the schema.
        overrides: `table.key=value` each, applied last; the value is TOML, a bare word is a string.

    Raises:
        RecipeError: no such recipe, not TOML, a circle of `extends`, an unknown key, a wrong type or range.
    """
    path = _find(name_or_path)
    _refuse_other_kind(path, kind)
    merged = _Merged()
    for file in reversed(_with_base(_lineage(path), kind)):
        values = {name: value for name, value in read_toml(file).items() if name not in ABOUT_THE_FILE}
        merged.put(_renamed(values, kind), file.name)
    for override in overrides:
        merged.put(_renamed(_parse_override(override), kind), "--set")
    try:
        # Through JSON, where strict checking still takes a list for a tuple and a string for a path.
        return kind.model_validate_json(json.dumps(merged.values, default=str))
    except ValidationError as error:
        raise _explain(error, merged, kind, otherwise=path.name) from error


def stated_kind(name_or_path: str | Path) -> str | None:
    """The kind that a recipe, or the nearest of its parents, says it is of: `kind = "train-unet"`."""
    stated = (read_toml(file).get("kind") for file in _lineage(_find(name_or_path)))
    return next((kind for kind in stated if kind is not None), None)


def dump_recipe(recipe: BaseModel) -> str:
    """The recipe as TOML text that loads to the same recipe; keys that are `None` are left out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """The dotted keys whose values differ, in order, with one phrase about both values for each.

    >>> differences({"a": 1, "t": {"b": 2}}, {"a": 1, "t": {"b": 3, "c": 4}})
    {'t.b': 't.b is 2 there and 3 now', 't.c': 't.c is not set there and 4 now'}
    """
    old, new = _flat(there), _flat(here)
    return {
        key: f"{key} is {_value(old, key)} there and {_value(new, key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _value(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"


def _find(name_or_path: str | Path, *, beside: Path | None = None) -> Path:
    """The file at a path, relative to `beside` for a parent, else the bundled recipe of that name."""
    path = (beside or Path()) / name_or_path
    if _is_file(path):
        return path
    if beside is not None and path.name and _is_file(path := path.with_name(f"{path.name}.toml")):
        return path
    name = Path(name_or_path).as_posix().removesuffix(".toml")
    names = bundled_names()
    if name in names:
        return bundled_folder() / f"{name}.toml"
    _refuse_unknown(str(name_or_path))


def _refuse_unknown(name: str) -> NoReturn:
    names = bundled_names()
    raise RecipeError(
        f"{_show(name)}: no such recipe, neither a file nor the name of a bundled one",
        hint=_did_you_mean(name.removesuffix(".toml"), names) or "'latentsync recipes list' shows them",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be searched
        return False


def _lineage(path: Path) -> list[Path]:
    """`path`, its parent, its grandparent and so on."""
    files = [path]
    while (parent := read_toml(files[-1]).get("extends")) is not None:
        if not isinstance(parent, str):
            raise RecipeError(
                f"{files[-1].name}: extends: got {_show(parent)}, expected the name of one recipe",
                hint='write for example extends = "stage1"',
            )
        found = _find(parent, beside=files[-1].parent)
        if found.resolve() in [file.resolve() for file in files]:
            circle = " -> ".join(file.name for file in [*files, found])
            raise RecipeError(f"{path.name}: extends is circular: {circle}", hint="remove one 'extends'")
        files.append(found)
    return files


def _with_base(files: list[Path], kind: type[BaseModel]) -> list[Path]:
    """`files` and, behind their last parent, the bundled recipe that holds where they state nothing.

    The base's own parents must be complete by themselves.
    """
    base = kind.base if issubclass(kind, Recipe) else None
    if base is None:
        return files
    bases = _lineage(bundled_folder() / f"{base}.toml")
    is_below = bool(files) and files[-1].resolve() in [file.resolve() for file in bases]
    return files if is_below else [*files, *bases]


def _base_values(kind: type[BaseModel]) -> dict[str, Any]:
    merged = _Merged()
    for file in reversed(_with_base([], kind)):
        merged.put(read_toml(file), file.name)
    return merged.values


def _value_at(values: dict[str, Any], key: Key) -> object:
    found: Any = values
    for name in key:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _renamed(values: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    return kind.renamed(values) if issubclass(kind, Recipe) else values


def _refuse_other_kind(path: Path, kind: type[BaseModel]) -> None:
    expected = kind.kind if issubclass(kind, Recipe) else ""
    stated = stated_kind(path)
    if stated is not None and expected and stated != expected:
        raise RecipeError(
            f"{path.name}: is a recipe of kind {_show(stated)}, expected {_show(expected)}",
            hint=f"give a recipe with kind = {json.dumps(expected)}, or none",
        )


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds; its size and depth are bounded before it is parsed.

    Raises:
        RecipeError: it cannot be read, is not a regular file, too large, or not TOML.
    """
    try:
        with open_regular(path, most_bytes=MOST_BYTES) as file:
            text = file.read().decode("utf-8")
    except OSError as error:
        raise RecipeError(
            f"'{path}': cannot be read ({error.strerror})", hint="check the path and its permissions"
        ) from error
    except MediaError as error:
        raise RecipeError(str(error), hint=error.hint) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"'{path}': is not a text file", hint="a recipe is a TOML file in UTF-8") from error
    try:
        return _parse(text.replace("\r\n", "\n"))
    except ValueError as error:
        raise RecipeError(
            f"'{path}': is not valid TOML: {error}", hint="strings need quotes, tables need [brackets]"
        ) from error


def _parse(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        ValueError: not TOML, nested too deeply, or a number with too many digits.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key has more than {_MOST_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ValueError("a number has too many digits") from error


def _parse_override(override: str) -> dict[str, Any]:
    """The nested tables that one `--set` stands for."""
    dotted, equals, text = override.partition("=")
    key = tuple(name.strip() for name in dotted.split("."))
    if not equals or not all(key) or len(key) > _MOST_DEPTH:
        raise RecipeError(
            f"--set {_show(override)}: is not key=value", hint="write for example --set sampling.steps=10"
        )
    try:
        value = _parse(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word
    except ValueError as error:
        raise RecipeError(f"--set {'.'.join(key)}: {error}", hint="give a shorter value") from error
    for name in reversed(key):
        value = {name: value}
    values: dict[str, Any] = value
    return values


def _explain(
    error: ValidationError, merged: _Merged, kind: type[BaseModel], *, otherwise: str
) -> RecipeError:
    """The first fault of `error` as one line: file, key, what was found and what was expected."""
    faults = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    key = tuple(str(part) for part in fault["loc"])
    origin = merged.origin(key, otherwise=otherwise)
    where = f"{origin}{' ' if origin == '--set' else ': '}{'.'.join(key) or 'recipe'}"
    table = _table_at(kind, tuple(part for part in fault["loc"][:-1] if isinstance(part, str)))
    fields = table.model_fields if table else {}
    if fault["type"] == "extra_forbidden":
        hint = _did_you_mean(key[-1], list(fields)) or f"known keys: {', '.join(sorted(fields))}"
        return RecipeError(f"{where}: no such key", hint=hint)
    if fault["type"] == "missing":
        return RecipeError(f"{where}: is missing", hint=f"add it to the recipe, or --set {'.'.join(key)}=…")
    if fault["type"] == "value_error":
        hint = f"change {'.'.join(key)}" if key and key[-1] in fields else "change one of the two"
        return RecipeError(f"{where}: {fault['ctx']['error']}", hint=hint)
    expected = fault["msg"].removeprefix("Input should be ").replace("an object", "a table")
    default = _value_at(_base_values(kind), key)
    hint = (
        f"the default is {default!r}" if isinstance(default, int | float | str) else f"change {'.'.join(key)}"
    )
    return RecipeError(f"{where}: got {_show(fault['input'])}, expected {expected}", hint=hint)


def _table_at(kind: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The schema of the table at `key`."""
    table: type[BaseModel] | None = kind
    for name in key:
        if table is None or name not in table.model_fields:
            return None
        annotation = table.model_fields[name].annotation
        options = [annotation, *get_args(annotation)]
        table = next(
            (option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None
        )
    return table


def _did_you_mean(name: str, names: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
