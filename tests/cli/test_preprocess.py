"""What the flags of `latentsync preprocess` become."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from latentsync.events import Report
from latentsync.preprocess import run as front
from latentsync.preprocess.run import PreprocessJob, PreprocessResult
from latentsync.preprocess.summary import Funnel
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.workers.log import Shard
from latentsync_cli import app as cli

FUNNEL = Funnel(
    sources=3, sources_kept=1, clips=4, kept=2, kept_s=9.0, dropped={"no_face": 1}, failed={"crashed": 1}
)
RESULT = PreprocessResult(Path("out"), 3, 1, 2, 0, Path("out/manifest.parquet"), FUNNEL, 1.5)


class Calls:
    """Stands for the core: remembers what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[PreprocessJob] = []
        self.recipes: list[PreprocessRecipe] = []

    def run(self, job: PreprocessJob, recipe: PreprocessRecipe, report: Report) -> PreprocessResult:
        self.jobs.append(job)
        self.recipes.append(recipe)
        return RESULT

    def summarize(self, out: Path, report: Report) -> tuple[Funnel, list[Path]]:
        return FUNNEL, [out / "summary" / "offsets.png"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls()
    monkeypatch.setattr(front, "run", stand_in.run)
    monkeypatch.setattr(front, "summarize", stand_in.summarize)
    return stand_in


def give(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["latentsync", "preprocess", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_two_folders_are_enough(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "raw", "out") == 0
    assert calls.jobs == [PreprocessJob(raw=Path("raw"), out=Path("out"))]
    assert calls.recipes == [load_recipe("preprocess", PreprocessRecipe)]
    shown = capsys.readouterr()
    assert shown.out == "out/manifest.parquet\n"
    assert "no_face" in shown.err and "crashed" in shown.err


def test_flags_become_a_job(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--engine ray --address head:6379 --workers 3 --shard 2/5 --device cpu --limit 60 --retry-failed "
        "--dry-run --quiet --set cut.length_s=2"
    )
    assert give(monkeypatch, *flags.split(), "--", "-raw", "-out") == 0
    assert calls.jobs == [
        PreprocessJob(
            raw=Path("-raw"),
            out=Path("-out"),
            engine="ray",
            address="head:6379",
            workers=3,
            shard=Shard(2, 5),
            device="cpu",
            limit_s=60.0,
            retry_failed=True,
            dry_run=True,
        )
    ]
    assert calls.recipes[0].cut.length_s == 2.0


def test_json_is_all_there_is_on_stdout(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "raw", "out", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "out": "out",
        "manifest": "out/manifest.parquet",
        "sources": 3,
        "finished_before": 1,
        "finished_now": 2,
        "other_files": 0,
        "took_s": 1.5,
        "funnel": {
            "sources": 3,
            "sources_with_kept_clips": 1,
            "clips": 4,
            "kept": 2,
            "kept_s": 9.0,
            "dropped": {"no_face": 1},
            "failed": {"crashed": 1},
            "filters": [],
        },
    }


def test_a_summary_is_a_table_and_the_pictures(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "--summary", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "    no_face                 1    25.0%" in lines
    assert lines[-1] == "out/summary/offsets.png"
    give(monkeypatch, "--summary", "out", "--json")
    assert json.loads(capsys.readouterr().out)["pictures"] == ["out/summary/offsets.png"]


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        ([], 2, "RAW and OUT"),
        (["raw"], 2, "RAW and OUT"),
        (["raw", "out", "--summary", "out"], 2, "--summary"),
        (["raw", "out", "--shard", "0/4"], 2, "--shard '0/4'"),
        (["raw", "out", "--address", "a:1"], 2, "--address a:1"),
        (["raw", "out", "--set", "cut.lenght_s=1"], 3, "cut.lenght_s"),
    ],
)
def test_wrong_flags_start_nothing(
    flags: list[str],
    code: int,
    named: str,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert give(monkeypatch, *flags) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and named in error
    assert hint.startswith("hint:  ")
    assert calls.jobs == []
