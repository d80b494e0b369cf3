"""Runs beside each other: what is drawn, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentsync.errors import MediaError, UsageError
from latentsync.train.curves import choose_measures, course, draw_runs, last_values, read_runs
from latentsync.train.log import Row
from latentsync_cli import app as cli

ROWS: list[Row] = [
    {"samples": 8, "steps": 1, "losses": {"bce": 0.7, "accuracy": 0.5}},
    {"samples": 16, "steps": 2, "losses": {"bce": 0.6, "accuracy": 0.6}},
    {"samples": 16, "steps": 2, "validation": {"bce": 0.65, "balanced_accuracy": 0.7}},
]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, rows in (("a", ROWS), ("b", ROWS[:2])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def test_a_course_is_that_of_training_or_validation() -> None:
    assert course(ROWS, "bce", "losses", "samples") == [(8, 0.7), (16, 0.6)]
    assert course(ROWS, "bce", "validation", "steps") == [(2, 0.65)]
    assert course(ROWS, "balanced_accuracy", "losses", "steps") == []


def test_the_last_value_is_the_validations_where_they_have_it(runs: Path) -> None:
    logs = read_runs({name: runs / name for name in ("a", "b")})
    assert choose_measures(logs, ()) == ["bce", "accuracy"]
    assert last_values(logs, ["bce", "balanced_accuracy"]) == {
        "a": {"bce": 0.65, "balanced_accuracy": 0.7},
        "b": {"bce": 0.6},
    }


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_run_is_a_line_in_the_legend(suffix: str, runs: Path) -> None:
    path = runs / "pictures" / f"curves.{suffix}"
    draw_runs({"one": ROWS, "two": ROWS[:2]}, path, measures=["bce", "accuracy"], against="steps")
    content = path.read_bytes()
    assert content[:4] in (b"\x89PNG", b"<?xm", b"%PDF") and len(content) > 5000


def test_what_cannot_be_drawn_is_refused(runs: Path) -> None:
    with pytest.raises(MediaError, match=r"nothing': there is no log\.jsonl"):
        read_runs({"nothing": runs / "nothing"})
    with pytest.raises(UsageError, match="--measure fid: no run has logged it") as caught:
        choose_measures({"one": ROWS}, ["fid"])
    assert caught.value.hint == "there are accuracy, balanced_accuracy, bce"
    with pytest.raises(UsageError, match=r"neither \.png"):
        draw_runs({"one": ROWS}, runs / "curves.bmp", measures=["bce"], against="steps")


def test_the_command_prints_the_last_values_and_the_picture(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr("sys.argv", ["latentsync", "curves", "a", "other=b", "-o", "fig.png", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
        raise SystemExit(0)
    shown = json.loads(capsys.readouterr().out)
    assert shown["picture"] == "fig.png" and (runs / "fig.png").is_file()
    assert shown["last"] == {"a": {"bce": 0.65, "accuracy": 0.6}, "other": {"bce": 0.6, "accuracy": 0.6}}
