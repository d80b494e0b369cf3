"""Whole evaluations of tiny videos, with one cheap metric."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentsync.errors import FaceError, MediaError, UsageError
from latentsync.evaluate import run as evaluate
from latentsync.evaluate.run import EvaluateJob, Method, run
from latentsync.evaluate.score import content_hash
from latentsync.evaluate.syncnet import SyncNetJob, run_syncnet
from latentsync.events import Event, Note, Plan, ignore
from latentsync.media.read import read_frames
from latentsync.media.write import Encoding, write_video
from latentsync.metrics.metric import Missing, Need, ScoredClip, Value
from latentsync.metrics.sync import BUNDLED_SYNCNET
from latentsync.models.syncnet import build_syncnet
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import TowerConfig
from latentsync.types import FrameImage
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.models import find_model
from tests.networks import PAPER_SYNCNET

USUAL = load_recipe("evaluate", EvaluateRecipe)


@dataclass
class Length:
    """The number of frames that were compared."""

    name: str = "length"
    version: str = "1"
    values: tuple[Value, ...] = (Value("length", "frames", "higher"),)
    needs: tuple[Need, ...] = ()
    asked: list[str] = field(default_factory=list)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        self.asked.append(clip.name)
        return {"length": float(len(clip.made_u8))}


EXAMPLES = Path(__file__).parents[2] / "examples"


def write_with_speech(path: Path, frames: list[FrameImage]) -> Path:
    """A video of `frames` with the spoken example."""
    encoding, speech = Encoding(preset="ultrafast"), EXAMPLES / "speech.wav"
    return write_video(path, frames, speech=speech, encoding=encoding, duration_s=len(frames) / 25)


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of our portrait, with sound."""
    frames = [frame.rgb_u8 for frame in read_frames(EXAMPLES / "portrait.mp4", end_s=1.0)]
    return write_with_speech(tmp_path_factory.mktemp("portrait") / "portrait.mp4", frames)


@pytest.fixture
def speech() -> Path:
    return EXAMPLES / "speech.wav"


@pytest.fixture
def recipe() -> EvaluateRecipe:
    """Small crops and one second, so that it is quick."""
    chosen = USUAL
    return chosen.model_copy(
        update={
            "prepare": chosen.prepare.model_copy(update={"resolution": 64, "longest_s": 1.0, "min_s": 0.8})
        }
    )


@pytest.fixture
def job(tmp_path: Path, portrait: Path, speech: Path) -> EvaluateJob:
    """One pair that can be scored, and one whose video is not there."""
    lines = ["name,video,speech", f"good,{portrait},{speech}", f"gone,{tmp_path / 'gone.mp4'},{speech}"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(portrait, videos / "good_out.mp4")
    return EvaluateJob(
        pairs=tmp_path / "pairs.csv",
        methods=(Method("Ours", videos),),
        output=tmp_path / "out",
        cache=tmp_path / "cache",
        device="cpu",
    )


def test_a_run_writes_page_table_and_numbers_and_goes_on_past_bad_clips(
    job: EvaluateJob, recipe: EvaluateRecipe
) -> None:
    length, events = Length(), list[Event]()
    result = run(job, recipe, events.append, metrics=([length], [], []))
    rows = {row.method: row for row in result.report.rows("cross")}
    assert (rows["real"].used, rows["real"].clips, rows["real"].excluded) == (1, 2, {"missing": 1})
    assert rows["Ours"].cells["length"].value == 25
    table = list(csv.DictReader(result.table.read_text(encoding="utf-8").splitlines()))
    assert {row["clip"] for row in table if row["reason"]} == {"gone"}
    numbers = json.loads(result.numbers.read_text(encoding="utf-8"))
    assert numbers["settings"]["cross"]["methods"][1]["values"]["length"]["clips"] == 1
    assert result.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert any(isinstance(event, Plan) for event in events)
    # The same again measures nothing.
    asked = len(length.asked)
    run(job, recipe, ignore, metrics=([length], [], []))
    assert len(length.asked) == asked


def test_generated_videos_are_made_once_and_scored(
    job: EvaluateJob, recipe: EvaluateRecipe, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    loaded: list[object] = []

    def load(*arguments: object, **more: object) -> object:
        loaded.append(arguments)
        return object()

    def sync(sync_job: evaluate.SyncJob, *arguments: object, **more: object) -> None:
        made.append(sync_job.output)
        shutil.copy(portrait, sync_job.output)

    monkeypatch.setattr(evaluate, "load_model", load)
    monkeypatch.setattr(evaluate, "run_sync", sync)
    notes: list[Event] = []
    job = replace(job, generate=True)
    for _ in range(2):
        result = run(job, recipe, notes.append, metrics=([Length("sync_conf_compact")], [], []))
    assert result.report.taught == {"Ours": frozenset(), "compact": {"sync_conf_compact"}}
    assert [path.name for path in made] == ["good.mp4"]
    assert len(loaded) == 2  # the pair without a video is tried again
    rows = {row.method: row for row in result.report.rows("cross")}
    assert (rows["compact"].used, rows["compact"].clips) == (1, 2)
    assert any("gone" in event.message for event in notes if isinstance(event, Note))


def test_a_face_that_sync_does_not_find_ends_nothing(
    job: EvaluateJob, recipe: EvaluateRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(*arguments: object, **more: object) -> None:
        raise FaceError("no face in any of 3 frames")

    monkeypatch.setattr(evaluate, "load_model", lambda *arguments, **more: object())
    monkeypatch.setattr(evaluate, "run_sync", sync)
    result = run(replace(job, generate=True), recipe, ignore, metrics=([Length()], [], []))
    details = [one.detail for one in result.report.scores if one.method == "compact"]
    assert "sync failed: no face in any of 3 frames" in details


def test_a_checkpoint_states_which_networks_taught_it(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    teachers = {
        "vae": {"name": "compact", "sha256": "0" * 64},
        "syncnet": {"name": "compact", "sha256": content_hash(BUNDLED_SYNCNET)},
    }
    config = TowerConfig(channels=(8,), factors=(1,), attention=())
    save_checkpoint(path, {}, kind="unet", config=config, facts={"networks": teachers})
    spec = replace(find_model("compact"), name="mine", unet=path)
    metrics = ([Length("sync_conf_compact"), Length("ssim")], [], [])
    assert evaluate._judges_that_taught("mine", spec, metrics) == {"sync_conf_compact"}  # type: ignore[arg-type]
    assert evaluate._judges_that_taught("another", spec, metrics) == frozenset()  # type: ignore[arg-type]


def test_a_judge_that_taught_nothing_marks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: Any = ([Length("sync_conf_compact")], [], [])
    assert evaluate._judges_that_taught("compact", None, metrics) == {"sync_conf_compact"}
    judge = tmp_path / "judge.safetensors"
    judge.write_bytes(b"another network")
    monkeypatch.setattr("latentsync.metrics.sync.INDEPENDENT_SYNCNET", judge)
    assert evaluate._judges_that_taught("compact", None, metrics) == frozenset()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_set": "hdtf"}, "either --set or --pairs"),
        ({"methods": (Method("real", Path()),)}, "this name is taken"),
        ({"methods": (Method("a", Path()), Method("a", Path()))}, "this name is given twice"),
    ],
)
def test_flags_that_do_not_fit(
    job: EvaluateJob, recipe: EvaluateRecipe, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(replace(job, **changes), recipe, ignore, metrics=([Length()], [], []))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["HDTF", "none.toml"])
def test_a_set_that_is_not_there(tmp_path: Path, recipe: EvaluateRecipe, name: str) -> None:
    job = EvaluateJob(test_set=name, output=tmp_path / "out")
    with pytest.raises(UsageError, match=f"no set is called '{name}'") as failure:
        run(job, recipe, ignore, metrics=([Length()], [], []))
    assert failure.value.hint is not None and "hdtf, voxceleb2" in failure.value.hint


def test_a_set_of_which_clips_are_missing_says_so_in_the_report(
    tmp_path: Path, recipe: EvaluateRecipe, portrait: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("A_0", "B_0"):
        shutil.copy(portrait, tmp_path / "data" / f"{name}.mp4")
    job = EvaluateJob(
        test_set="hdtf", data=tmp_path / "data", output=tmp_path / "out", cache=tmp_path / "cache"
    )
    result = run(replace(job, device="cpu"), recipe, ignore, metrics=([Length()], [], []))
    assert result.report.title == "Lip sync on HDTF, 2 of 30 clips"
    assert dict(result.report.facts)["clips"].startswith("2 of 30 clips")


def test_a_set_whose_data_is_absent_says_how_to_get_it(tmp_path: Path, recipe: EvaluateRecipe) -> None:
    job = EvaluateJob(test_set="hdtf", data=tmp_path / "none", output=tmp_path / "out")
    with pytest.raises(MediaError, match="HDTF are missing"):
        run(job, recipe, ignore, metrics=([Length()], [], []))


def test_a_metric_with_a_bug_leaves_its_clip_failed(job: EvaluateJob, recipe: EvaluateRecipe) -> None:
    class Broken(Length):
        def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
            raise ZeroDivisionError("division by zero")

    threads = torch.get_num_threads()
    with pytest.raises(MediaError, match="none of 2 videos could be scored: missing 1, failed 1"):
        run(job, recipe, ignore, metrics=([Broken()], [], []))
    table = (job.output / "scores.csv").read_text(encoding="utf-8")
    assert "good,Ours,length,,failed: ZeroDivisionError" in table
    assert torch.get_num_threads() == threads


def test_workers_change_neither_the_numbers_nor_their_order(
    job: EvaluateJob, recipe: EvaluateRecipe, tmp_path: Path, portrait: Path
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        pairs.read_text(encoding="utf-8") + f"\nsecond,{portrait},{portrait}\n", encoding="utf-8"
    )
    one, two = (
        run(
            replace(job, metrics=("ssim", "flicker"), workers=workers, cache=tmp_path / str(workers)),
            recipe,
            ignore,
        )
        for workers in (1, 2)
    )
    assert one.report == two.report
    assert one.table.read_bytes() == two.table.read_bytes()


@pytest.fixture
def syncnet(tmp_path: Path) -> Path:
    """A SyncNet of a few numbers that learnt nothing."""
    torch.manual_seed(1)
    config = PAPER_SYNCNET.replaced(
        visual=TowerConfig(channels=(8, 8), factors=((1, 2), (16, 16)), attention=()),
        audio=TowerConfig(channels=(8, 8), factors=((5, 4), (16, 4)), attention=()),
        frames=5,
        resolution=32,
        norm_groups=4,
    )
    path = tmp_path / "syncnet.safetensors"
    save_checkpoint(path, build_syncnet(config).state_dict(), kind="syncnet", config=config)
    return path


def test_a_syncnet_is_judged_on_processed_clips(tmp_path: Path, syncnet: Path) -> None:
    random = np.random.default_rng(1)
    (tmp_path / "data").mkdir()
    write_with_speech(tmp_path / "data" / "a.mp4", list(random.integers(0, 255, (25, 64, 64, 3), np.uint8)))
    job = SyncNetJob(checkpoint=syncnet, data=tmp_path / "data", output=tmp_path / "out", device="cpu")
    result = run_syncnet(job, USUAL, ignore)
    assert 0 <= result.found.accuracy <= 1
    assert result.found.pairs == 2048
    assert json.loads(result.numbers.read_text(encoding="utf-8"))["clips"] == 1
    assert "ROC" in result.page.read_text(encoding="utf-8")
    with pytest.raises(MediaError, match=r"no clip is in the split (train|validation)"):
        for split in ("train", "validation"):
            run_syncnet(replace(job, split=split), USUAL, ignore)  # type: ignore[arg-type]
