"""`latentsync models` as a person sees it: what is printed where, and the exit codes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from latentsync.events import Progress, Report
from latentsync.weights import catalog
from latentsync.weights import hub as fetch
from latentsync_cli import app as cli

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


def give(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `latentsync models` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["latentsync", "models", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_from_missing_to_removed(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stick.parent / "cache" / "one" / "a.pt"
    assert give(monkeypatch, "pull", "one", "--from", stick) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{path}\n"
    assert "one: size unknown; licence MIT; commercial use: no" in shown.err
    assert give(monkeypatch, "pull", "one", "--offline") == 0
    shown = capsys.readouterr()
    assert shown.out == f"{path}\n"
    assert "one: is here already" in shown.err
    assert give(monkeypatch, "path", "one") == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert give(monkeypatch, "verify") == 0
    assert capsys.readouterr().out == f"good  one  {path}\n"
    assert give(monkeypatch, "remove", "one") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (f"{path}\n", "7 bytes freed\n")


def test_the_list_has_a_line_for_each(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "pull", "one", "--from", stick)
    capsys.readouterr()
    assert give(monkeypatch, "list") == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows.keys() >= {"compact", "one", "two"}
    for word in ("0.0 MB", "present", "MIT", "no", "something"):
        assert word in rows["one"]
    assert "2.5 GB" in rows["two"] and "missing" in rows["two"]


def test_the_list_for_scripts(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cache"] == str(stick.parent / "cache")
    assert [(model["name"], model["is_present"]) for model in told["models"]] == [
        ("one", False),
        ("two", False),
    ]
    assert told["models"][1]["size_bytes"] == 2_500_000_000


def test_what_is_missing_and_what_it_would_enable(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "pull", "one", "--offline") == 6
    assert "one/a.pt (one: something)" in capsys.readouterr().err
    assert give(monkeypatch, "path", "one") == 6
    assert "hint:  run 'latentsync models pull one'\n" in capsys.readouterr().err
    assert give(monkeypatch, "verify", "one") == 6
    assert capsys.readouterr().out.startswith("missing  one  ")
    assert give(monkeypatch, "remove", "on") == 6
    assert "did you mean one?" in capsys.readouterr().err


def test_a_damaged_file(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "pull", "one", "--from", stick)
    path = stick.parent / "cache" / "one" / "a.pt"
    path.write_bytes(b"weighty")
    capsys.readouterr()
    found = hashlib.sha256(b"weighty").hexdigest()
    assert give(monkeypatch, "verify") == 6
    shown = capsys.readouterr()
    assert shown.out == f"damaged  one  {path}\n"
    assert f"error: one: '{path}' has the SHA-256 {found}, expected {DIGEST}\n" in shown.err
    assert "hint:  run 'latentsync models pull --force one' to fetch it again\n" in shown.err
    assert give(monkeypatch, "verify", "--json") == 6
    assert json.loads(capsys.readouterr().out)["files"][0]["verdict"] == "damaged"


def test_an_interrupted_pull_says_what_stays(
    stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(names: Any, report: Report, **options: Any) -> None:
        report(Progress("a.pt", 1, 2, "MB"))
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "pull", interrupted)
    assert give(monkeypatch, "pull", "one") == 130
    assert "files that are whole stay, and the same command fetches the rest" in capsys.readouterr().err


def test_import_passes_its_flags_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert give(monkeypatch, "import", "x.pt", "--dtype", "fp16", "-o", "y", "--force") == 0
    assert asked == [(Path("x.pt"), {"dtype": "fp16", "output": Path("y"), "is_forced": True})]
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'a'}\n"
    assert "1 dropped, decoder.ln.bias first: only the encoder is needed" in shown.err
    assert "unet 1.5: 3 tensors, 0 renamed" in shown.err
    assert "fp16, 2.0 MB" in shown.err
