"""What the flags of `latentsync evaluate` become, and one evaluation of real clips."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.errors import UsageError
from latentsync.evaluate import run as core
from latentsync.evaluate import syncnet
from latentsync.evaluate.run import EvaluateJob, Method
from latentsync.evaluate.syncnet import SyncNetJob
from tests.cli.conftest import Calls
from tests.conftest import RunCli

JobOf = Callable[..., EvaluateJob | SyncNetJob]


@pytest.fixture
def job_of(monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, stand_in: Callable[..., Calls]) -> JobOf:
    """The job that flags become; the core ends at once."""

    def fail(job: object) -> None:
        raise UsageError("asked")

    calls = stand_in(core, fail)
    monkeypatch.setattr(syncnet, "run_syncnet", calls.run)

    def job(*flags: str) -> EvaluateJob | SyncNetJob:
        assert run_cli("evaluate", *flags).err == "error: asked\n"
        return calls.jobs[-1]

    return job


def test_every_flag_reaches_the_job(job_of: JobOf) -> None:
    flags = "--set hdtf --data d --method A=a --method B=b=c --generate --model m --metrics ssim,fid"
    flags += " --sync-recipe s --engine ray --address h:1 --workers 3 --limit 9"
    more = "--cache k -o out --device cpu --identity-network n"
    assert job_of(*flags.split(), *more.split()) == EvaluateJob(
        test_set="hdtf",
        data=Path("d"),
        methods=(Method("A", Path("a")), Method("B", Path("b=c"))),
        generate=True,
        model="m",
        sync_recipe="s",
        metrics=("ssim", "fid"),
        engine="ray",
        address="h:1",
        workers=3,
        limit_s=9,
        cache=Path("k"),
        output=Path("out"),
        device="cpu",
        identity_network=Path("n"),
    )


def test_without_flags_the_job_is_its_defaults(job_of: JobOf) -> None:
    assert job_of("--set", "hdtf") == EvaluateJob(test_set="hdtf")


def test_a_syncnet_is_another_job(job_of: JobOf) -> None:
    job = job_of("--syncnet", "a.pt", "--data", "d", "--split", "train")
    assert job == SyncNetJob(checkpoint=Path("a.pt"), data=Path("d"), split="train")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "hdtf", "--method", "A"], "--method 'A': not of the form NAME=DIR"),
        (["--syncnet", "a.pt"], "--syncnet needs --data"),
        (["--syncnet", "a.pt", "--data", "d", "--set", "hdtf"], "--syncnet takes processed clips"),
        (["--set", "hdtf", "--address", "h:1"], "the local engine takes no address"),
        (["--set", "hdtf", "--metrics", "sim"], "unknown metric"),
        ([], "give either --set or --pairs"),
    ],
)
def test_flags_that_do_not_fit(
    flags: list[str], message: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "hdtf").mkdir(parents=True)
    (tmp_path / "data" / "hdtf" / "a_1.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    ended = run_cli("evaluate", *flags)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_real_clips_through_the_executable(media: Path, tmp_path: Path) -> None:
    clips = [media / "train" / "assorted" / f"voxceleb_0{number}.mp4" for number in (1, 2)]
    lines = ["name,video,speech,speaker_video,generated", f"own,{clips[0]},{clips[0]},,{clips[0]}"]
    lines.append(f"other,{clips[0]},{clips[1]},{clips[1]},{clips[0]}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "short.toml").write_text("[prepare]\nlongest_s = 1.6\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("latentsync"), "evaluate", "--pairs", tmp_path / "pairs.csv"]
    command += ["--recipe", tmp_path / "short.toml", "--workers", "1", "--device", "cpu", "--json"]
    command += [
        "--metrics",
        "ssim,lmd,leak,aperture,fid",
        "-o",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
    ]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    own = {row["method"]: row for row in told["settings"]["reconstruction"]["methods"]}
    assert own["generated"]["values"]["ssim"]["mean"] == pytest.approx(1.0)
    assert own["generated"]["values"]["lmd"]["mean"] == 0
    assert own["real"]["used"] == 1
    # A mouth that was not changed follows its old speech, and no other one.
    other = {row["method"]: row for row in told["settings"]["cross"]["methods"]}["generated"]["values"]
    assert other["leak_r"]["mean"] == pytest.approx(1.0, abs=0.01)
    assert other["aperture_r"]["mean"] < 0.9
    assert (tmp_path / "out" / "report.html").is_file()
