"""The run around the steps: what is done, logged, continued, given up and merged. The steps are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from latentsync.errors import MediaError, RecipeError, UsageError, WeightsError
from latentsync.events import Event, Note, Plan, Progress, ignore
from latentsync.manifest import read_decisions, read_manifest
from latentsync.preprocess import run as preprocess
from latentsync.preprocess.run import PreprocessJob, PreprocessResult, collect, run, summarize
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.workers.local import LocalPool
from latentsync.workers.log import Log, Shard
from latentsync.workers.pool import WorkerPool

RECIPE = load_recipe("preprocess", PreprocessRecipe)

# A source holds a line that says what becomes of it. `work` leaves a mark for each source it sees.
STAND_IN = """
import os, time
from hashlib import sha256
from latentsync.errors import WeightsError
from latentsync.manifest import Decision, clip_folder

def work(source):
    with open(os.path.join(OUT, "..", "seen"), "a") as seen:
        seen.write(source.name + "\\n")
    told = source.path.read_text()
    folder = clip_folder(OUT, source.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.abc.part.mp4").write_text("half")
    if told == "crash":
        os._exit(1)
    if told == "raise":
        raise ValueError("what is this\\nsecond line")
    if told == "full":
        raise OSError(28, "No space left on device")
    if told == "unfit":
        raise WeightsError("no weights", hint="pull them")
    if told == "slow":
        time.sleep(0.3)
    (folder / "0.abc.part.mp4").unlink()
    if told == "drop":
        return [Decision(source=source.name, outcome="dropped", reason="no_face")], {}
    clip = folder / "0.mp4"
    clip.write_text(source.name)
    return [Decision(source=source.name, outcome="kept", clip=clip.relative_to(OUT).as_posix(), frames=25,
        resolution=64, fps=25.0, person=source.name, split="train", offset_frames=1, confidence=4.0,
        judge="compact", sha256=sha256(clip.read_bytes()).hexdigest())], {"write_clip": 0.1}
"""
DRIVER = """
import sys
from pathlib import Path
from latentsync.preprocess import run as preprocess
from latentsync.recipe.loading import load_recipe
from latentsync.workers.local import LocalPool
from functools import partial

if __name__ == "__main__":
    raw, out, make = Path(sys.argv[1]), Path(sys.argv[2]), partial(eval, sys.argv[3])
    recipe = load_recipe("preprocess", preprocess.PreprocessRecipe)
    preprocess._worker_pool = lambda job, recipe, tasks: LocalPool(make, workers=2)
    preprocess.run(preprocess.PreprocessJob(raw=raw, out=out), recipe, print)
"""
AWKWARD = (
    "a b.mp4",
    "quote'\".mp4",
    "line\nbreak.mp4",
    "ünï.mp4",
    os.fsdecode(b"\xff.mp4"),
    "one/c.mp4",
    "two/c.mp4",
)
Fill = Callable[..., Path]


def stand_in(out: Path) -> str:
    """Python that gives `work`, in any process."""
    code = f"from pathlib import Path\nOUT = Path({str(out)!r})\n{STAND_IN}"
    return f"(lambda names: (exec({code!r}, names), names['work'])[1])({{}})"


@pytest.fixture(autouse=True)
def stand_in_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(job: PreprocessJob, recipe: PreprocessRecipe, tasks: int) -> WorkerPool:
        return LocalPool(partial(eval, stand_in(job.out)), workers=job.workers or 2, most=tasks)

    monkeypatch.setattr(preprocess, "_worker_pool", pool)


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Makes a raw folder out of names and what becomes of them."""

    def write(**told: str) -> Path:
        for name, line in told.items():
            path = tmp_path / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line)
        return tmp_path / "raw"

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def go(raw: Path, out: Path, report: Callable[[Event], None] = ignore, **job: object) -> PreprocessResult:
    return run(PreprocessJob(raw=raw, out=out, **job), RECIPE, report)  # type: ignore[arg-type]


def seen(out: Path) -> list[str]:
    """The sources that workers saw since the last call."""
    file = out.parent / "seen"
    names = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(names)


def files(out: Path) -> dict[str, bytes]:
    """Everything that must not depend on how the run went."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "log"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def outcomes(out: Path) -> dict[str, tuple[str, str, str]]:
    return {one.source: (one.outcome, one.reason, one.detail) for one in read_decisions(out)}


def test_every_source_has_a_decision_and_every_kept_clip_a_row(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep", "b/a.mp4": "keep", "c.mp4": "drop", "notes.doc": ""})
    result = go(raw, out)
    assert outcomes(out) == {
        "a.mp4": ("kept", "", ""),
        "b/a.mp4": ("kept", "", ""),
        "c.mp4": ("dropped", "no_face", ""),
    }
    assert [clip.path.read_text() for clip in read_manifest(out)] == ["a.mp4", "b/a.mp4"]
    assert result.manifest == out / "manifest.parquet" and result.funnel is not None
    assert (result.sources, result.done, result.before, result.other_files) == (3, 3, 0, 1)
    assert (result.funnel.kept, result.funnel.dropped) == (2, {"no_face": 1})


def test_any_name_goes_through(fill: Fill, out: Path) -> None:
    go(fill(**dict.fromkeys(AWKWARD, "keep")), out)
    assert len(read_manifest(out)) == len(AWKWARD)
    assert len({clip.path.read_text() for clip in read_manifest(out)}) == len(AWKWARD)


def test_the_result_depends_neither_on_workers_nor_on_shards(fill: Fill, tmp_path: Path) -> None:
    raw = fill(**{f"{n}.mp4": ("keep", "drop")[n % 2] for n in range(7)}, **{"x.mp4": "crash"})
    go(raw, tmp_path / "one", workers=1)
    go(raw, tmp_path / "two", workers=2)
    for index in (2, 1):
        go(raw, tmp_path / "shards", shard=Shard(index, 2), workers=1)
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "shards")


def test_a_second_run_does_only_what_is_new_changed_or_gone(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep", "b.mp4": "keep", "c.mp4": "drop", "d.mp4": "drop"})
    go(raw, out)
    assert seen(out) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    before = files(out)
    result = go(raw, out)
    assert (seen(out), result.before, result.done) == ([], 4, 0)
    assert files(out) == before
    shutil.rmtree(out / "clips" / "a.mp4")
    fill(**{"c.mp4": "keep it", "e.mp4": "drop"})
    go(raw, out)
    assert seen(out) == ["a.mp4", "c.mp4", "e.mp4"]
    assert [clip.source for clip in read_manifest(out)] == ["a.mp4", "b.mp4", "c.mp4"]


def test_what_kills_its_worker_or_raises_is_given_up_after_two_tries(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "crash", "b.mp4": "raise", "c.mp4": "keep"})
    notes: list[str] = []
    go(raw, out, lambda event: notes.append(event.message) if isinstance(event, Note) else None)
    assert outcomes(out) == {
        "a.mp4": ("failed", "crashed", "2 times"),
        "b.mp4": ("failed", "error", "ValueError: what is this"),
        "c.mp4": ("kept", "", ""),
    }
    assert sum("'a.mp4': crashed (exit code 1)" in note for note in notes) == 2
    assert not list(out.rglob("*.part*"))
    seen(out)
    go(raw, out)
    assert seen(out) == []
    fill(**{"a.mp4": "keep!"})  # as long as before, so that only the flag makes the difference
    go(raw, out)
    assert seen(out) == []
    go(raw, out, retry_failed=True)
    assert seen(out) == ["a.mp4", "b.mp4", "b.mp4"]
    assert outcomes(out)["a.mp4"][0] == "kept"


def test_what_cannot_be_read_is_a_decision_for_as_long(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    os.mkfifo(raw / "pipe.mp4")
    (raw / "gone.mp4").symlink_to("nowhere")
    go(raw, out)
    assert outcomes(out)["pipe.mp4"] == ("dropped", "unreadable", "is not a regular file")
    assert outcomes(out)["gone.mp4"][:2] == ("dropped", "unreadable")
    (raw / "gone.mp4").unlink()
    (raw / "pipe.mp4").unlink()
    fill(**{"pipe.mp4": "keep"})
    go(raw, out)
    assert {name: outcome for name, (outcome, _, _) in outcomes(out).items()} == {
        "a.mp4": "kept",
        "pipe.mp4": "kept",
    }


def test_what_cannot_be_read_is_noted_once(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    (raw / "gone.mp4").symlink_to("nowhere")
    log = out / "log" / "shard-1-of-1.jsonl"
    go(raw, out)
    before = log.read_bytes()
    go(raw, out)
    assert log.read_bytes() == before
    (raw / "gone.mp4").unlink()
    os.mkfifo(raw / "gone.mp4")
    go(raw, out)
    assert outcomes(out)["gone.mp4"] == ("dropped", "unreadable", "is not a regular file")


def test_another_recipe_for_the_same_folder_is_refused(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    go(raw, out)
    other = load_recipe("preprocess", PreprocessRecipe, overrides=["cut.length_s=2", "cut.min_s=5"])
    with pytest.raises(RecipeError, match=r"cut.length_s is 5\S* there and 2.0 now"):
        run(PreprocessJob(raw=raw, out=out), other, ignore)


def test_folders_that_do_not_fit(fill: Fill, out: Path, tmp_path: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    for folder in (raw, raw / "out", tmp_path):
        with pytest.raises(UsageError, match=r"one contains the other"):
            go(raw, folder)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.jpg").touch()
    with pytest.raises(UsageError, match=r"did not write"):
        go(raw, tmp_path / "taken")
    with pytest.raises(MediaError, match=r"nowhere.: cannot be read"):
        go(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match=r"contains no videos"):
        go(tmp_path / "empty", out)
    assert list((tmp_path / "taken").iterdir()) == [tmp_path / "taken" / "photo.jpg"] and not out.exists()


def test_a_dry_run_writes_nothing(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep", "b.mp4": "drop"})
    plans: list[Event] = []
    result = go(raw, out, plans.append, dry_run=True)
    assert (result.done, result.manifest, result.funnel) == (2, None, None)
    assert not out.exists() and seen(out) == []
    (plan,) = plans
    assert isinstance(plan, Plan) and "to do    2 videos, 0 are finished" in plan.lines
    out.mkdir()
    (raw / "gone.mp4").symlink_to("nowhere")
    go(raw, out, plans.append, dry_run=True)
    assert list(out.iterdir()) == []
    assert Note("'gone.mp4': No such file or directory", "warning") in plans


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_writes_nothing(fill: Fill, out: Path) -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        go(fill(**{"a.mp4": "keep"}), out, device="cuda")
    assert not out.exists()


def test_a_full_disk_stops_the_run_and_loses_nothing(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep", "b.mp4": "full", "c.mp4": "keep"})
    with pytest.raises(MediaError, match=r"the disk is full, [0-9.]+ MB are free") as stopped:
        go(raw, out, workers=1)
    assert "the same command" in str(stopped.value.hint)
    assert not list(out.rglob("*.part*"))
    seen(out)
    (raw / "b.mp4").write_text("keep")
    go(raw, out)
    assert seen(out) == ["b.mp4", "c.mp4"]


def test_missing_weights_stop_the_run(fill: Fill, out: Path) -> None:
    with pytest.raises(WeightsError, match="no weights"):
        go(fill(**{"a.mp4": "unfit"}), out)


def test_progress_counts_what_is_dropped(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep", "b.mp4": "drop", "c.mp4": "drop"})
    events: list[Event] = []
    go(raw, out, events.append)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last == Progress("preprocess", 3, 3, "videos", note="1 kept, 2 no_face")


def test_the_last_shard_to_end_writes_the_manifest(fill: Fill, out: Path) -> None:
    raw = fill(**{f"{n}.mp4": "keep" for n in range(6)})
    other = Log(out / "log", Shard(2, 2))
    (out / "recipe.toml").write_text(preprocess.dump_recipe(preprocess._resolved(RECIPE)))
    assert go(raw, out, shard=Shard(1, 2)).manifest is None
    other.close()
    assert go(raw, out, shard=Shard(2, 2)).manifest is not None
    assert len(read_manifest(out)) == 6


def test_what_nobody_logged_is_removed(fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    go(raw, out)
    for name in ("clips/gone.mp4/0.mp4", "clips/a.mp4/9.x.part.mp4", "features/ab/abcd.mel.safetensors"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    go(raw, out)
    assert sorted(files(out)) == ["clips/a.mp4/0.mp4", "decisions.jsonl", "manifest.parquet", "recipe.toml"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_resumes_and_ends_with_the_same_files(
    signum: signal.Signals, fill: Fill, tmp_path: Path, out: Path
) -> None:
    raw = fill(**{f"{n:02}.mp4": "slow" for n in range(10)}, **{"x.mp4": "drop"})
    go(raw, tmp_path / "whole")
    seen(out)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(raw), str(out), stand_in(out)]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    logged = out / "log" / "shard-1-of-1.jsonl"
    end_s = time.monotonic() + 60
    while not (logged.exists() and logged.read_bytes().count(b"\n") >= 3) and time.monotonic() < end_s:
        time.sleep(0.02)
    stopped.send_signal(signum)
    output, _ = stopped.communicate(timeout=60)
    if signum != signal.SIGKILL:
        assert "run the same command again to resume" in output
        assert not list(out.rglob("*.part*"))
    done = [json.loads(line) for line in logged.read_bytes().splitlines() if line.endswith(b"}")]
    assert 3 <= len(done) < 11
    seen(out)
    go(raw, out)
    assert not set(seen(out)) & {entry["key"] for entry in done if "decisions" in entry}
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"decisions"', '"decisiveness"'),
        ('"frames": 25', '"frames": 2.5'),
        ('"clip": "clips/', '"clip": "../clips/'),
        ('"outcome": "kept"', '"outcome": "lost"'),
        ('"bytes": 4', '"bytes": "four"'),
    ],
)
def test_a_log_that_another_program_changed_is_named(before: str, after: str, fill: Fill, out: Path) -> None:
    raw = fill(**{"a.mp4": "keep"})
    go(raw, out)
    log = out / "log" / "shard-1-of-1.jsonl"
    assert before in log.read_text()
    log.write_text(log.read_text().replace(before, after))
    with pytest.raises(MediaError, match=r"shard-1-of-1\.jsonl', line 1: "):
        go(raw, out)
    with pytest.raises(MediaError, match=r"shard-1-of-1\.jsonl', line 1: "):
        summarize(out, ignore)


def test_what_is_finished_can_be_counted_while_shards_run(fill: Fill, out: Path) -> None:
    raw = fill(**{f"{n}.mp4": "drop" for n in range(4)})
    go(raw, out, shard=Shard(1, 2))
    part = len(collect(out))
    go(raw, out, shard=Shard(2, 2))
    assert 0 < part < len(collect(out)) == 4
    with pytest.raises(MediaError, match="no source is finished here"):
        summarize(raw, ignore)
