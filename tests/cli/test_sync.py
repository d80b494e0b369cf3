"""What the flags of `latentsync sync` become."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from latentsync.events import Report
from latentsync.faces.choice import FaceChoice
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync import run as core
from latentsync.sync.run import SyncJob, SyncResult
from latentsync_cli import app as cli

RESULT = SyncResult(
    output=Path("a_synced.mp4"),
    model="compact",
    device="cpu",
    effort="best",
    steps=2,
    guidance=1.5,
    frames=5,
    frames_with_face=4,
    bridged=1,
    untouched=((0.0, 0.04),),
    duration_s=0.2,
    took_s=1.5,
)


class Calls:
    """Stands for the core: remembers what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[SyncJob] = []
        self.recipes: list[SyncRecipe] = []

    def run(self, job: SyncJob, recipe: SyncRecipe, report: Report) -> SyncResult:
        self.jobs.append(job)
        self.recipes.append(recipe)
        return RESULT


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls()
    monkeypatch.setattr(core, "run", stand_in.run)
    monkeypatch.delenv("LATENTSYNC_MODEL", raising=False)
    return stand_in


def give(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["latentsync", "sync", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_two_files_are_enough(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "films/a.b.mov", "b.wav") == 0
    job = calls.jobs[0]
    assert job == SyncJob(video=Path("films/a.b.mov"), speech=Path("b.wav"), output=Path("a.b_synced.mp4"))
    assert calls.recipes == [load_recipe("sync", SyncRecipe)]
    assert capsys.readouterr().out == "a_synced.mp4\n"


def test_flags_become_a_job(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "-o -out.mp4 --model here --device cpu --dtype bf16 --face 12,40 --start 1 --end 00:00:02.5 "
        "--video-track 1 --audio-track 2 --keep-fps --pixel-format keep --duration ping-pong "
        "--mask m.png --compare --report r.json --force --dry-run --quiet"
    )
    give(monkeypatch, *flags.split(), "--", "-in.mp4", "-a.wav")
    assert calls.jobs == [
        SyncJob(
            video=Path("-in.mp4"),
            speech=Path("-a.wav"),
            output=Path("-out.mp4"),
            model="here",
            device="cpu",
            dtype="bf16",
            face=FaceChoice("point", point=(12.0, 40.0)),
            start_s=1.0,
            end_s=2.5,
            duration="ping-pong",
            mask=Path("m.png"),
            video_track=1,
            audio_track=2,
            keep_fps=True,
            pixel_format="keep",
            compare=True,
            report=Path("r.json"),
            force=True,
            dry_run=True,
        )
    ]


def test_flags_win_over_settings_and_the_recipe(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "seed = 1\n[sampling]\nquality = 'draft'\nsteps = 2\nguidance = 3.0\n[encoding]\ncrf = 30\n"
    )
    settings = ("--set", "sampling.steps=5", "--set", "paste.region=crop")
    flags = ("--effort", "best", "--steps", "7", "--codec", "lossless", "--seed", "9")
    give(monkeypatch, "a.mp4", "b.wav", "--recipe", str(recipe), *settings, *flags)
    (chosen,) = calls.recipes
    usual = load_recipe("sync", SyncRecipe).sampling
    assert chosen.sampling == usual.replaced(effort="best", steps=7, guidance=3.0)
    assert chosen.seed == 9
    assert (chosen.encoding.crf, chosen.encoding.codec, chosen.paste.region) == (30, "lossless", "crop")


def test_an_unknown_effort_names_the_choices(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "a.mp4", "b.wav", "--effort", "ultra") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in ("--effort", "'ultra'", "'draft'", "'standard'", "'best'"))
    assert calls.jobs == []


def test_effort_was_called_quality(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "a.mp4", "b.wav", "--quality", "draft")
    assert calls.recipes[0].sampling.effort == "draft"


def test_the_model_may_come_from_the_environment(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_MODEL", "latentsync-1.5")
    give(monkeypatch, "a.mp4", "b.wav")
    give(monkeypatch, "a.mp4", "b.wav", "--model", "compact")
    assert [job.model for job in calls.jobs] == ["latentsync-1.5", "compact"]


def test_json_is_all_there_is_on_stdout(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "a.mp4", "b.wav", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "output": "a_synced.mp4",
        "model": "compact",
        "device": "cpu",
        "effort": "best",
        "steps": 2,
        "guidance": 1.5,
        "frames": 5,
        "frames_with_face": 4,
        "bridged_frames": 1,
        "untouched_s": [[0.0, 0.04]],
        "duration_s": 0.2,
        "took_s": 1.5,
    }


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--face", "nose"], 2, "--face 'nose'"),
        (["--start", "1:2:3:4"], 2, "--start '1:2:3:4'"),
        (["--end", "-1"], 2, "--end '-1'"),
        (["--set", "paste.fade=1"], 3, "paste.fade"),
        (["--codec", "vp9"], 3, "encoding.codec"),
        (["--set", "sampling.quality=ultra"], 3, "expected 'fast', 'draft', 'standard' or 'best'"),
        (["--recipe", "nosuch"], 3, "'nosuch'"),
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
    assert give(monkeypatch, "a.mp4", "b.wav", *flags) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and named in error
    assert hint.startswith("hint:  ")
    assert calls.jobs == []
