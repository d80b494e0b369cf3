"""The wheel holds all that a fresh machine needs: the executable, the recipes and the bundled weights.

`.ci/wheel` installs it with its dependencies on other Pythons.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from latentsync import __version__

REPOSITORY = Path(__file__).parents[1]
SHIPPED_SUFFIXES = {".safetensors", ".md", ".json"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel; its dependencies are borrowed from the running one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(REPOSITORY), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("latentsync-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True
    )
    own = next((environment / "lib").glob("python*/site-packages"))
    # A plain path, not `site.addsitedir`: the editable install of the running environment must not be found.
    (own / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n", encoding="utf-8")
    return environment


def run(installed: Path, *command: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = str(installed / "bin" / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=installed, env=clean, check=True, capture_output=True, text=True
    ).stdout


def test_the_executable_answers(installed: Path) -> None:
    assert run(installed, "latentsync", "--version") == f"latentsync {__version__}\n"
    assert "sync" in run(installed, "latentsync", "--help")


def test_recipes_are_found_inside_it(installed: Path) -> None:
    program = "from latentsync.recipe.loading import *; print(bundled_folder()); print(*bundled_names())"
    folder, names = run(installed, "python", "-c", program).splitlines()
    assert Path(folder).is_relative_to(installed)
    expected = {path.relative_to(REPOSITORY / "recipes") for path in (REPOSITORY / "recipes").rglob("*.toml")}
    assert set(names.split()) == {path.with_suffix("").as_posix() for path in expected}


def test_bundled_files_are_inside_it(installed: Path) -> None:
    source = REPOSITORY / "latentsync" / "bundled"
    expected = {
        path.relative_to(source): path.stat().st_size
        for path in source.rglob("*")
        if path.is_file() and path.suffix in SHIPPED_SUFFIXES
    }
    assert any(path.suffix == ".safetensors" for path in expected)
    package = next((installed / "lib").glob("python*/site-packages")) / "latentsync" / "bundled"
    assert {path: (package / path).stat().st_size for path in expected} == expected


def test_links_of_the_readme_work_on_an_index(installed: Path) -> None:
    package = next((installed / "lib").glob("python*/site-packages/latentsync-*.dist-info"))
    targets = re.findall(r"\]\(([^)]*)\)", (package / "METADATA").read_text(encoding="utf-8"))
    assert targets and all(target.startswith("https://") for target in targets)
