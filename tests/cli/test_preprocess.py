"""What the flags of `latentsync preprocess` become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.preprocess import run as core
from latentsync.preprocess.run import PreprocessJob, PreprocessResult
from latentsync.preprocess.summary import Funnel
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.workers.log import Shard
from tests.cli.conftest import Calls
from tests.conftest import RunCli

FUNNEL = Funnel(
    sources=3, sources_kept=1, clips=4, kept=2, kept_s=9.0, dropped={"no_face": 1}, failed={"crashed": 1}
)
RESULT = PreprocessResult(Path("out"), 3, 1, 2, 0, Path("out/manifest.parquet"), FUNNEL, 1.5)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Calls]) -> Calls:
    pictures = [Path("out/summary/offsets.png")]
    monkeypatch.setattr(core, "summarize", lambda out, report: (FUNNEL, pictures))
    return stand_in(core, lambda job: RESULT)


def test_two_folders_are_enough(calls: Calls, run_cli: RunCli) -> None:
    shown = run_cli("preprocess", "raw", "out")
    assert (shown.code, shown.out) == (0, "out/manifest.parquet\n")
    assert calls.jobs == [PreprocessJob(raw=Path("raw"), out=Path("out"))]
    assert calls.recipes == [load_recipe("preprocess", PreprocessRecipe)]
    assert "no_face" in shown.err and "crashed" in shown.err


def test_flags_become_a_job(calls: Calls, run_cli: RunCli) -> None:
    flags = (
        "--engine ray --address head:6379 --workers 3 --shard 2/5 --device cpu --limit 60 --retry-failed "
        "--dry-run --quiet --set cut.length_s=2"
    )
    assert run_cli("preprocess", *flags.split(), "--", "-raw", "-out").code == 0
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


def test_json_is_all_there_is_on_stdout(calls: Calls, run_cli: RunCli) -> None:
    assert json.loads(run_cli("preprocess", "raw", "out", "--json").out) == {
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


def test_a_summary_is_a_table_and_the_pictures(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("preprocess", "--summary", "out")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert "    no_face                 1    25.0%" in lines
    assert lines[-1] == "out/summary/offsets.png"
    told = json.loads(run_cli("preprocess", "--summary", "out", "--json").out)
    assert told["pictures"] == ["out/summary/offsets.png"]


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
    run_cli: RunCli,
) -> None:
    ended = run_cli("preprocess", *flags)
    calls.check_refusal(ended, code, named)
