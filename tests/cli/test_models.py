"""`latentsync models` as a person sees it: what is printed where, and the exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from latentsync.events import Progress, Report
from latentsync.weights import catalog
from latentsync.weights import hub as fetch
from tests.conftest import Outcome, RunCli

BODY = b"weights"
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file of `one`; there is a catalogue of two entries, and an empty cache."""
    terms = {"kind": "unet", "title": "A", "licence": "MIT", "commercial_use": "no", "enables": "something"}
    files = {
        "one": {"path": "one/a.pt", "url": "http://127.0.0.1:9/a.pt", "sha256": DIGEST},
        "two": {"path": "two/b.pt", "url": "http://127.0.0.1:9/b.pt", "size_bytes": 2_500_000_000},
    }
    tables = {name: {**terms, **file} for name, file in files.items()}
    (tmp_path / "catalog.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "catalog.toml")
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "a.pt").write_bytes(BODY)
    return tmp_path / "stick"


def test_from_missing_to_removed(stick: Path, run_cli: RunCli) -> None:
    path = stick.parent / "cache" / "one" / "a.pt"
    shown = run_cli("models", "pull", "one", "--from", stick)
    assert (shown.code, shown.out) == (0, f"{path}\n")
    assert "one: size unknown; licence MIT; commercial use: no" in shown.err
    shown = run_cli("models", "pull", "one", "--offline")
    assert (shown.code, shown.out) == (0, f"{path}\n")
    assert "one: already present" in shown.err
    assert run_cli("models", "path", "one") == Outcome(0, f"{path}\n", "")
    assert run_cli("models", "verify").out == f"good  one  {path}\n"
    assert run_cli("models", "remove", "one") == Outcome(0, f"{path}\n", "7 bytes freed\n")


def test_the_list_has_a_line_for_each(stick: Path, run_cli: RunCli) -> None:
    run_cli("models", "pull", "one", "--from", stick)
    rows = {line.split()[0]: line for line in run_cli("models", "list").out.splitlines()}
    assert rows.keys() >= {"compact", "one", "two"}
    for word in ("0.0 MB", "present", "MIT", "no", "something"):
        assert word in rows["one"]
    assert "2.5 GB" in rows["two"] and "missing" in rows["two"]


def test_the_list_for_scripts(stick: Path, run_cli: RunCli) -> None:
    told = json.loads(run_cli("models", "list", "--json").out)
    assert told["cache"] == str(stick.parent / "cache")
    present = [(model["name"], model["is_present"]) for model in told["models"]]
    assert present == [("one", False), ("two", False)]
    assert told["models"][1]["size_bytes"] == 2_500_000_000


@pytest.mark.parametrize(
    ("arguments", "out", "err"),
    [
        ("pull one --offline", "", "one/a.pt (one: something)"),
        ("path one", "", "hint:  run 'latentsync models pull one'\n"),
        ("verify one", "missing  one  ", ""),
        ("remove on", "", "did you mean one?"),
    ],
)
def test_what_is_missing_and_what_it_would_enable(
    arguments: str, out: str, err: str, stick: Path, run_cli: RunCli
) -> None:
    ended = run_cli("models", *arguments.split())
    assert ended.code == 6
    assert ended.out.startswith(out) and err in ended.err


def test_a_damaged_file(stick: Path, run_cli: RunCli) -> None:
    run_cli("models", "pull", "one", "--from", stick)
    path = stick.parent / "cache" / "one" / "a.pt"
    path.write_bytes(b"weighty")
    found = hashlib.sha256(b"weighty").hexdigest()
    shown = run_cli("models", "verify")
    assert (shown.code, shown.out) == (6, f"damaged  one  {path}\n")
    assert f"error: one: '{path}' has the SHA-256 {found}, expected {DIGEST}\n" in shown.err
    assert "hint:  run 'latentsync models pull --force one' to fetch it again\n" in shown.err
    shown = run_cli("models", "verify", "--json")
    assert (shown.code, json.loads(shown.out)["files"][0]["verdict"]) == (6, "damaged")


def test_an_interrupted_pull_says_what_stays(
    stick: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(names: Any, report: Report, **options: Any) -> None:
        report(Progress("a.pt", 1, 2, "MB"))
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "pull", interrupted)
    ended = run_cli("models", "pull", "one")
    assert ended.code == 130
    assert "finished files are kept; run the same command to get the rest" in ended.err


def test_import_passes_its_flags_on(tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentsync.weights import convert

    asked: list[Any] = []

    def import_file(path: Path, **flags: Any) -> convert.ImportResult:
        asked.append((path, flags))
        return convert.ImportResult(
            kind="unet",
            version="1.5",
            output=tmp_path / "a",
            keys=3,
            renamed={},
            dropped={"decoder.ln.bias": "only the encoder is needed"},
            dtype="fp16",
            size_bytes=2_000_000,
        )

    monkeypatch.setattr(convert, "import_file", import_file)
    shown = run_cli("models", "import", "x.pt", "--dtype", "fp16", "-o", "y", "--force")
    assert asked == [(Path("x.pt"), {"dtype": "fp16", "output": Path("y"), "is_forced": True})]
    assert (shown.code, shown.out) == (0, f"{tmp_path / 'a'}\n")
    assert "1 dropped, decoder.ln.bias first: only the encoder is needed" in shown.err
    assert "unet 1.5: 3 tensors, 0 renamed" in shown.err
    assert "fp16, 2.0 MB" in shown.err
