"""What README, CONTRIBUTING and the pages of docs name exists: paths, modules, and the targets of links."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = (
    "latentsync",
    "latentsync_cli",
    "tests",
    "docs",
    "recipes",
    "benchmarks",
    "examples",
    ".ci",
)
IN_THE_WHEEL = {"latentsync/recipes"}  # where the build puts recipes/
ARCHITECTURE = ("README.md", "CONTRIBUTING.md", "docs/architecture.md")
PAGES = sorted(
    path
    for folder in (".", "docs", "benchmarks", "recipes/compact")
    for path in (REPOSITORY / folder).glob("*.md")
)


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def code_in(page: str) -> Iterator[str]:
    """The words in backticks outside blocks of code."""
    text = re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from re.findall(r"`([^`\s]+)`", text)


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page has for its headings, in the way of GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ARCHITECTURE)
def test_every_path_exists(page: str) -> None:
    paths = [word for word in code_in(page) if word.partition("/")[0] in FOLDERS and "/" in word]
    plain = {word for word in paths if not re.search(r"[…<>{}=]|[A-Z]{4}", word)} - IN_THE_WHEEL
    assert not [word for word in plain if not list(REPOSITORY.glob(word.rstrip("/").partition(":")[0]))]


@pytest.mark.parametrize("page", ARCHITECTURE)
def test_every_module_exists(page: str) -> None:
    modules = [word for word in code_in(page) if re.fullmatch(r"latentsync(_cli)?(\.\w+)+", word)]
    assert not [word for word in modules if not is_importable(word)]


def is_importable(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parent, _, last = dotted.rpartition(".")
    if (REPOSITORY / f"{dotted.replace('.', '/')}.py").is_file():
        return True
    if (REPOSITORY / dotted.replace(".", "/") / "__init__.py").is_file():
        return True
    return importlib.util.find_spec(parent) is not None and hasattr(importlib.import_module(parent), last)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken
