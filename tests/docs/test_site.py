"""`make docs` builds every page, and the reference names what `import latentsync` offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import latentsync

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")

REPOSITORY = Path(__file__).parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "api.html").read_text(encoding="utf-8")
    missing = [name for name in latentsync.__all__ if f".{name}" not in reference]
    assert missing == []
    pages = {page.stem for page in (REPOSITORY / "docs").glob("*.md")}
    in_menu = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert {page for page in pages if f'href="{page}.html"' not in in_menu} == set()
    assert "fonts.googleapis.com" not in in_menu
