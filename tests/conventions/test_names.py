"""Names and sizes: files are nouns of the domain; functions fit on a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(
    path for folder in ("latentsync", "latentsync_cli") for path in (REPOSITORY / folder).rglob("*.py")
)
SAYS_NOTHING = {"utils", "util", "helper", "helpers", "common", "misc", "manager", "handler", "base", "core"}
FUNCTION_LINES = 60
LOOP_LINES = 100  # a training loop reads better in one piece


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def line_limit(path: Path, function: str) -> int:
    is_loop = function == "run" and "train" in path.parts
    return LOOP_LINES if is_loop else FUNCTION_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_name_says_something(path: Path) -> None:
    words = {word for part in path.relative_to(REPOSITORY).with_suffix("").parts for word in part.split("_")}
    assert not words & SAYS_NOTHING


def lines_of(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the parameters in the command line, where a command has one for every flag."""
    first = function.body[0] if "latentsync_cli" in path.parts else function
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    too_long = {
        node.name: lines_of(path, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines_of(path, node) > line_limit(path, node.name)
    }
    assert not too_long


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pickles_are_never_trusted(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert arguments.get("weights_only") == "True", f"line {node.lineno}"
