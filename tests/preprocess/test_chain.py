"""A source through the chain of steps: order, drops, faults, and every kind of bad input."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import FaceError, MediaError
from latentsync.manifest import Decision, source_name
from latentsync.preprocess.chain import Stopwatch, build_steps, process
from latentsync.preprocess.measure_sync import MeasureSync
from latentsync.preprocess.step import REASONS, Clip, Drop, Source, Step
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.types import Frame

from .conftest import LoudnessJudge, MakeFilm, astronaut, clip_of

SETTINGS = (
    "align.resolution=64",
    "cut.length_s=0.8",
    "cut.min_s=0.4",
    "face.min_px=20",
    "sync.min_confidence_compact=0",
    "sync.max_offset_frames=15",
    "quality.measure=sharpness",
    "quality.min_sharpness=0",
    "encoding.preset=ultrafast",
)
RECIPE = load_recipe("preprocess", PreprocessRecipe, overrides=SETTINGS)


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """The real steps, with a judge that needs no weights."""
    steps = build_steps(RECIPE, device="cpu")
    for step in steps:
        if isinstance(step, MeasureSync):
            step.judge = LoudnessJudge()
        step.start()
    return steps


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@dataclass
class Split:
    """Gives parts of a clip, and notes what is done when."""

    parts: int
    log: list[str] = field(default_factory=list)
    name: str = "split"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        for part in range(self.parts):
            frame = clip.start_frame * 10 + part
            self.log.append(f"{self.parts}:{frame}")
            yield replace(clip, start_frame=frame, frames=1)


@dataclass
class Fail:
    """Fails on one clip."""

    error: BaseException
    at_frame: int = 1
    name: str = "fail"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        if clip.start_frame == self.at_frame:
            raise self.error
        yield clip


def run(steps: list[Step], out_dir: Path) -> list[Decision]:
    return process(clip_of().source, steps, out_dir)


def test_clips_are_worked_off_depth_first(out_dir: Path) -> None:
    log: list[str] = []
    decisions = run([Split(2, log), Split(3, log)], out_dir)
    assert log == ["2:0", "3:0", "3:1", "3:2", "2:1", "3:10", "3:11", "3:12"]
    assert [decision.start_s for decision in decisions] == [0, 0.04, 0.08, 0.4, 0.44, 0.48]


@pytest.mark.parametrize(
    ("error", "reason"), [(MediaError("'raw/a.mp4' is bad"), "unreadable"), (FaceError("none"), "no_face")]
)
def test_a_fault_of_the_file_drops_one_clip(error: Exception, reason: str, out_dir: Path) -> None:
    decisions = run([Split(3), Fail(error)], out_dir)
    assert [(one.outcome, one.reason) for one in decisions] == [
        ("kept", ""),
        ("dropped", reason),
        ("kept", ""),
    ]
    assert "raw/" not in decisions[1].detail and decisions[1].start_s == 0.04


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError(), ValueError("a bug")])
def test_what_is_no_fault_of_the_file_is_raised(error: Exception, out_dir: Path) -> None:
    with pytest.raises(type(error)):
        run([Split(3), Fail(error)], out_dir)


def talk(make_film: MakeFilm, name: str = "talk.mp4", *, frames: int = 20) -> Path:
    return make_film(name, pictures=[astronaut(number / 4) for number in range(frames)])


def kept(decisions: list[Decision]) -> list[str]:
    return [decision.clip for decision in decisions if decision.clip is not None]


def test_a_talking_head_becomes_a_clip(make_film: MakeFilm, steps: list[Step], out_dir: Path) -> None:
    path = talk(make_film)
    before = path.read_bytes()
    (decision,) = process(Source(path, "talk.mp4"), steps, out_dir)
    assert (decision.outcome, decision.reason, decision.frames, decision.resolution) == ("kept", "", 20, 64)
    assert decision.judge == "compact" and decision.quality_measure == "sharpness" and decision.sha256
    assert decision.person == "talk.mp4" and decision.split is not None and decision.face_px is not None
    assert path.read_bytes() == before
    assert process(Source(path, "talk.mp4"), steps, out_dir) == [decision]


def test_what_an_interrupted_run_left_is_removed(
    make_film: MakeFilm, steps: list[Step], out_dir: Path
) -> None:
    path = talk(make_film)
    left = out_dir / "clips/talk.mp4"
    left.mkdir(parents=True)
    for name in ("000009.00-000014.00.mp4", "000000.00-000000.80.4-ab.part.mp4"):
        (left / name).write_bytes(b"left")
    decisions = process(Source(path, "talk.mp4"), steps, out_dir)
    assert [f"clips/talk.mp4/{one.name}" for one in left.iterdir()] == kept(decisions)


def test_names_of_any_kind(make_film: MakeFilm, steps: list[Step], out_dir: Path) -> None:
    raw = out_dir.parent / "raw"
    path = talk(make_film, 'raw/it\'s "odd"\nname ü 日本.mp4', frames=12)
    bytes_name = raw / os.fsdecode(b"\xff\xfe.mp4")
    bytes_name.write_bytes(path.read_bytes())
    sources = [Source(one, source_name(one, raw)) for one in (path, bytes_name)]
    clips = kept([decision for source in sources for decision in process(source, steps, out_dir)])
    assert len(set(clips)) == 2 and all((out_dir / clip).is_file() for clip in clips)


def junk(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    return path


def cut_off(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def rotten(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(1)
    for position in random.integers(100, len(content) - 100, 300):
        content[position] = random.integers(256)
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


Make = Callable[[MakeFilm, Path], Path]
BAD: dict[str, tuple[Make, str]] = {
    "missing": (lambda film, at: at / "none.mp4", "unreadable"),
    "folder": (lambda film, at: at, "unreadable"),
    "symlink loop": (lambda film, at: loop(at / "loop.mp4"), "unreadable"),
    "zero length": (lambda film, at: written(at / "a.mp4", b""), "unreadable"),
    "text": (lambda film, at: written(at / "passwords.mp4", b"alice:secret\nbob:letmein\n"), "unreadable"),
    "junk": (lambda film, at: junk(at / "a.mp4"), "unreadable"),
    "cut off": (lambda film, at: cut_off(film(), 0.5), "unreadable"),
    "no sound": (lambda film, at: film(sound_s=None), "no_audio"),
    "no picture": (lambda film, at: film("a.m4a", has_video=False), "no_video"),
    "one frame": (lambda film, at: film(frames=1), "no_video"),
    "short": (lambda film, at: film(frames=4), "too_short"),
    "no face": (lambda film, at: film(), "no_face"),
    "1000 fps": (lambda film, at: film(fps=1000, frames=500), "no_face"),
    "vertical": (lambda film, at: film(size=(36, 64)), "no_face"),
    "rotated": (lambda film, at: film(rotation=90), "no_face"),
    "HDR": (lambda film, at: film("a.mkv", codec="libx265", pix_fmt="yuv420p10le"), "no_face"),
    "AV1": (lambda film, at: film("a.mkv", codec="libsvtav1", size=(128, 96)), "no_face"),
    "tiny": (lambda film, at: film(size=(2, 2)), "no_face"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_a_reason(
    kind: str, make_film: MakeFilm, steps: list[Step], tmp_path: Path, out_dir: Path
) -> None:
    make, reason = BAD[kind]
    path = make(make_film, tmp_path)
    decisions = process(Source(path, "source"), steps, out_dir)
    assert {(decision.outcome, decision.reason) for decision in decisions} == {("dropped", reason)}
    assert not any(one.is_file() for one in out_dir.rglob("*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it(make_film: MakeFilm, steps: list[Step], out_dir: Path) -> None:
    path = make_film()
    path.chmod(0)
    (decision,) = process(Source(path, "source"), steps, out_dir)
    assert decision.reason == "unreadable"


@pytest.mark.parametrize("share", [0.97, 0.8])
def test_damage_in_the_middle_never_crashes(
    share: float, make_film: MakeFilm, steps: list[Step], out_dir: Path
) -> None:
    path = cut_off(rotten(talk(make_film, "talk.mkv")), share)
    decisions = process(Source(path, "source"), steps, out_dir)
    assert decisions and all(one.outcome == "kept" or one.reason in REASONS for one in decisions)


def test_a_full_disk_stops_the_source(
    make_film: MakeFilm, steps: list[Step], out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latentsync.media.write.os.fsync", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        process(Source(talk(make_film), "talk.mp4"), steps, out_dir)
    assert caught.value.errno == errno.ENOSPC


def test_two_people_are_not_one_speaker(make_film: MakeFilm, steps: list[Step], out_dir: Path) -> None:
    pair = np.hstack([astronaut()[:, 60:260], astronaut(zoom=0.7)[:, 60:260]])
    (decision,) = process(Source(make_film(pictures=[pair] * 20), "pair"), steps, out_dir)
    assert decision.reason == "several_faces" and decision.other_faces == 1


def test_a_real_person_is_kept(media: Path, steps: list[Step], out_dir: Path) -> None:
    source = Source(media / "train/grid_s1/bbaf2n.mpg", "bbaf2n.mpg")
    decisions = process(source, steps, out_dir)
    assert [(one.outcome, one.start_s) for one in decisions] == [("kept", 0), ("kept", 0.8), ("kept", 1.6)]


NOTHING = np.zeros((1, 1, 3), np.uint8)


class Clock:
    """Time passes only when a step says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Reader:
    clock: Clock
    name: str = "reader"

    def start(self) -> None:
        self.clock.now_s += 50

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        self.clock.now_s += 1
        yield replace(clip, stream=self.frames())
        self.clock.now_s += 2

    def frames(self) -> Iterator[Frame]:
        for number in range(3):
            self.clock.now_s += 10
            yield Frame(NOTHING, number, number / 25)


@dataclass
class Judge:
    clock: Clock
    name: str = "judge"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        assert clip.stream is not None
        for _ in clip.stream:
            self.clock.now_s += 0.25
        yield Drop("no_face")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stand_in = Clock()
    monkeypatch.setattr(time, "perf_counter", stand_in)
    return stand_in


def test_each_step_has_its_own_seconds(clock: Clock, tmp_path: Path) -> None:
    watch = Stopwatch()
    steps = [watch.on(Reader(clock)), watch.on(Judge(clock))]
    for step in steps:
        step.start()
    clock.now_s += 7
    source = Source(tmp_path / "a.mp4", "a.mp4")
    assert [one.reason for one in process(source, steps, tmp_path)] == ["no_face"]
    assert watch.take() == {"reader": 33.0, "judge": 0.75}
    assert watch.take() == {}
