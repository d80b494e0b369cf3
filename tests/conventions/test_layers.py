"""The architecture: modules import from lower rows only, and the core knows nothing of the command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "latentsync"
CLI = REPOSITORY / "latentsync_cli"
ROWS = [
    {"errors", "compat", "bundled", "callable_package", "__init__"},
    {"axes", "events", "files", "rates", "times"},
    {"types"},
    {"runtime", "recipe"},
    {"media", "faces", "audio", "models"},
    {"weights", "diffusion", "manifest"},
    {"metrics"},
    {"train", "workers"},
    {"sync", "preprocess", "doctor"},
    {"evaluate"},
    {"api", "serve"},
]
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}


def modules_imported(source: str) -> set[str]:
    """The dotted names of all modules that `source` imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import in full, from latentsync…"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts_imported(source: str) -> set[str]:
    """The files and folders of `latentsync` that `source` imports from."""
    names = [name.split(".") for name in modules_imported(source)]
    parts = {name[1] for name in names if name[0] == "latentsync" and len(name) > 1}
    return {part for part in parts if not part.startswith("__")}


def files_of(folder: Path) -> list[Path]:
    """Without `__main__.py`, which only starts the command line."""
    return sorted(path for path in folder.rglob("*.py") if path.name != "__main__.py")


def test_imports_are_found_inside_functions_too() -> None:
    top = "from latentsync import axes\n"
    inside = "def f():\n    import latentsync.faces.track\n    from latentsync.sync.run import run"
    assert parts_imported(top + inside) == {"axes", "faces", "sync"}


@pytest.mark.parametrize("path", files_of(CORE), ids=lambda path: str(path.relative_to(CORE)))
def test_imports_point_to_lower_rows(path: Path) -> None:
    own = path.relative_to(CORE).with_suffix("").parts[0]
    assert own in ROW_OF, f"{own} has no row yet: give it one here and in docs/architecture.md"
    for other in parts_imported(path.read_text(encoding="utf-8")) - {own}:
        assert ROW_OF[other] < ROW_OF[own], f"{own} (row {ROW_OF[own]}) imports {other} (row {ROW_OF[other]})"


@pytest.mark.parametrize("path", files_of(CORE), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_knows_no_command_line(path: Path) -> None:
    roots = {name.split(".")[0] for name in modules_imported(path.read_text(encoding="utf-8"))}
    assert not roots & {"latentsync_cli", "typer", "click", "rich"}


@pytest.mark.parametrize("path", files_of(CLI), ids=lambda path: str(path.relative_to(CLI)))
def test_the_command_line_imports_no_click(path: Path) -> None:
    assert "click" not in {name.split(".")[0] for name in modules_imported(path.read_text(encoding="utf-8"))}


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, in order; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module in done:
            return []
        for other in sorted(arrows[module]):
            if circle := visit(other, [*way, module]):
                return circle
        done.add(module)
        return []

    for module in sorted(arrows):
        if circle := visit(module, []):
            return circle
    return []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_in_a_circle() -> None:
    files = {module_of(path): path for folder in (CORE, CLI) for path in files_of(folder)}
    arrows = {
        name: {other for other in modules_imported(path.read_text(encoding="utf-8")) if other in files}
        - {name}
        for name, path in files.items()
    }
    assert not find_circle(arrows)
