"""Files beside the package: images, workflow and citation are whole, and name what exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from latentsync import __version__

REPOSITORY = Path(__file__).parents[1]
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def instructions_of(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and their arguments, without comments, on one line each."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_small_and_does_not_run_as_root(path: Path) -> None:
    found = instructions_of(path)
    names = [name for name, _ in found]
    assert set(names) <= INSTRUCTIONS
    assert names[0] == "FROM" and re.fullmatch(r"[a-z]+:[\d.]+-[a-z-]+", found[0][1])
    for name, rest in found:
        if name == "RUN":
            shlex.split(rest)  # quotes are closed
            assert "apt-get install" not in rest or "rm -rf /var/lib/apt/lists/*" in rest
            assert "pip install" not in rest or "--no-cache-dir" in rest
    assert names.index("USER") < names.index("ENTRYPOINT") and ("USER", "latentsync") in found
    assert ("ENTRYPOINT", '["latentsync"]') in found


def test_images_take_the_torch_that_the_package_takes() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        wanted = {name for name in tomllib.load(file)["project"]["dependencies"] if name.startswith("torch")}
    for path in DOCKERFILES:
        assert set(re.findall(r'"(torch[^"]*)"', path.read_text(encoding="utf-8"))) == wanted


def test_images_get_what_the_wheel_is_built_from() -> None:
    kept = re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"latentsync", "latentsync_cli", "recipes", "pyproject.toml", "README.md", "LICENSE"} == set(kept)
    assert all((REPOSITORY / name).exists() for name in kept)


def test_the_workflow_runs_what_there_is() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    targets = set(re.findall(r"make (\w+)", text))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all((REPOSITORY / name).is_file() for name in re.findall(r"docker/\S+Dockerfile", text))


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", __version__)
    assert "2412.09262" in citation["preferred-citation"]["url"]
    assert len(citation["preferred-citation"]["authors"]) == 9
