"""What the flags of `latentsync sync` become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.faces.choice import FaceChoice
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync import run as core
from latentsync.sync.run import SyncJob, SyncResult
from tests.cli.conftest import Calls
from tests.conftest import RunCli

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
    covered=((0.08, 0.12),),
    occluded=2,
    duration_s=0.2,
    took_s=1.5,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Calls]) -> Calls:
    monkeypatch.delenv("LATENTSYNC_MODEL", raising=False)
    return stand_in(core, lambda job: RESULT)


def test_two_files_are_enough(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("sync", "films/a.b.mov", "b.wav")
    assert (ended.code, ended.out) == (0, "a_synced.mp4\n")
    job = calls.jobs[0]
    assert job == SyncJob(video=Path("films/a.b.mov"), speech=Path("b.wav"), output=Path("a.b_synced.mp4"))
    assert calls.recipes == [load_recipe("sync", SyncRecipe)]


def test_flags_become_a_job(calls: Calls, run_cli: RunCli) -> None:
    flags = (
        "-o -out.mp4 --model here --device cpu --dtype bf16 --face 12,40 --start 1 --end 00:00:02.5 "
        "--video-track 1 --audio-track 2 --keep-fps --pixel-format keep --duration ping-pong "
        "--mask m.png --compare --report r.json --force --dry-run --quiet"
    )
    run_cli("sync", *flags.split(), "--", "-in.mp4", "-a.wav")
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


def test_flags_win_over_settings_and_the_recipe(calls: Calls, run_cli: RunCli, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "seed = 1\n[sampling]\nquality = 'draft'\nsteps = 2\nguidance = 3.0\n[encoding]\ncrf = 30\n"
    )
    settings = ("--set", "sampling.steps=5", "--set", "paste.region=crop")
    flags = ("--effort", "best", "--steps", "7", "--codec", "lossless", "--seed", "9")
    run_cli("sync", "a.mp4", "b.wav", "--recipe", str(recipe), *settings, *flags)
    (chosen,) = calls.recipes
    usual = load_recipe("sync", SyncRecipe).sampling
    assert chosen.sampling == usual.replaced(effort="best", steps=7, guidance=3.0)
    assert chosen.seed == 9
    assert (chosen.encoding.crf, chosen.encoding.codec, chosen.paste.region) == (30, "lossless", "crop")


def test_an_unknown_effort_names_the_choices(calls: Calls, run_cli: RunCli) -> None:
    ended = run_cli("sync", "a.mp4", "b.wav", "--effort", "ultra")
    assert ended.code == 2
    error = ended.err.splitlines()[-1]
    assert all(word in error for word in ("--effort", "'ultra'", "'draft'", "'standard'", "'best'"))
    assert calls.jobs == []


def test_effort_was_called_quality(calls: Calls, run_cli: RunCli) -> None:
    run_cli("sync", "a.mp4", "b.wav", "--quality", "draft")
    assert calls.recipes[0].sampling.effort == "draft"


def test_the_model_may_come_from_the_environment(
    calls: Calls, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSYNC_MODEL", "latentsync-1.5")
    run_cli("sync", "a.mp4", "b.wav")
    run_cli("sync", "a.mp4", "b.wav", "--model", "compact")
    assert [job.model for job in calls.jobs] == ["latentsync-1.5", "compact"]


def test_json_is_all_there_is_on_stdout(calls: Calls, run_cli: RunCli) -> None:
    assert json.loads(run_cli("sync", "a.mp4", "b.wav", "--json").out) == {
        "output": "a_synced.mp4",
        "model": "compact",
        "device": "cpu",
        "effort": "best",
        "steps": 2,
        "guidance": 1.5,
        "frames": 5,
        "frames_with_face": 4,
        "bridged_frames": 1,
        "occluded_frames": 2,
        "untouched_s": [[0.0, 0.04]],
        "covered_s": [[0.08, 0.12]],
        "turned_s": [],
        "turns": [],
        "cast": {},
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
    run_cli: RunCli,
) -> None:
    ended = run_cli("sync", "a.mp4", "b.wav", *flags)
    calls.check_refusal(ended, code, named)
