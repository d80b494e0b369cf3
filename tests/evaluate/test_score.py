"""Scores of one pair, and what the cache spares."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.evaluate.pairs import Made, Pair
from latentsync.evaluate.prepare import Faces
from latentsync.evaluate.score import REAL, Assignment, Cache, ClipScores, Scorer
from latentsync.evaluate.totals import Totals, total
from latentsync.metrics.metric import (
    ClipMetric,
    Missing,
    Need,
    ScoredClip,
    SetMetric,
    Side,
    Unavailable,
    Value,
)
from latentsync.metrics.statistics import FeatureStatistics, frechet_distance
from latentsync.recipe.evaluate import EvaluateRecipe, Preparing
from latentsync.recipe.loading import load_recipe

from .conftest import WriteClip, clip_writer

USUAL = load_recipe("evaluate", EvaluateRecipe)


@dataclass
class Brightness:
    """Mean of the generated crops; dark clips have none. Remembers how often it was asked."""

    name: str = "brightness"
    version: str = "1"
    values: tuple[Value, ...] = (Value("brightness", "of 255", "higher"),)
    needs: tuple[Need, ...] = ()
    darkest: float = 0.0
    asked: list[str] = field(default_factory=list)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        self.asked.append(clip.name)
        found = float(clip.made_u8.mean())
        return {"brightness": found} if found >= self.darkest else Missing("too_dark", f"{found:.0f}")


@dataclass
class Difference:
    """Mean difference from the reference."""

    name: str = "ssim"
    version: str = "1"
    values: tuple[Value, ...] = (Value("ssim", "", "lower"),)
    needs: tuple[Need, ...] = ("real",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        assert clip.real_u8 is not None
        return {"ssim": float(np.abs(clip.made_u8.astype(float) - clip.real_u8).mean())}


@dataclass
class Colours:
    """The distance between the mean colours of frames."""

    name: str = "fid"
    version: str = "1"
    values: tuple[Value, ...] = (Value("fid", "", "lower"),)
    needs: tuple[Need, ...] = ("real",)
    width: int = 3

    def features(self, clip: ScoredClip, side: Side) -> NDArray[np.float64]:
        return clip.crops_u8(side).mean((1, 2), dtype=np.float64)

    def compare(self, made: FeatureStatistics, real: FeatureStatistics) -> float | Missing:
        return frechet_distance(made, real)


def scorer_of(
    cache: Path,
    faces: Faces,
    preparing: Preparing,
    *clip_metrics: ClipMetric,
    set_metrics: list[SetMetric] | None = None,
) -> Scorer:
    return Scorer(clip_metrics, set_metrics or [], preparing, faces, Cache(cache))


@pytest.fixture
def assignment(write_clip: WriteClip) -> Assignment:
    real = write_clip("real.mp4")
    pair = Pair(name="a", setting="reconstruction", video=real, sound=real, speech=real, speaker=real)
    made = write_clip("made.mp4", side=120, x=60)
    return Assignment(pair, (Made("Ours", made), Made("Theirs", None, "no video of that name")))


def test_every_method_gets_a_row(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing
) -> None:
    scorer = scorer_of(tmp_path / "cache", faces, preparing, Brightness(), Difference())
    real, ours, theirs = scorer.score(assignment)
    assert (real.method, ours.method, theirs.method) == (REAL, "Ours", "Theirs")
    assert real.missing == {"ssim": "no_reference: a real video is its own reference"}
    assert set(ours.values) == {"brightness", "ssim"}
    assert (theirs.reason, theirs.detail) == ("missing", "no video of that name")


def test_what_is_known_is_not_measured_again(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing
) -> None:
    brightness, cache = Brightness(), tmp_path / "cache"
    first = scorer_of(cache, faces, preparing, brightness).score(assignment)
    assert scorer_of(cache, faces, preparing, brightness).score(assignment) == first
    assert len(brightness.asked) == 2
    # One more metric asks only that one; a new version asks again; another resolution does, too.
    scorer_of(cache, faces, preparing, brightness, Difference()).score(assignment)
    assert len(brightness.asked) == 2
    scorer_of(cache, faces, preparing, replace(brightness, version="2")).score(assignment)
    assert len(brightness.asked) == 4
    other = preparing.model_copy(update={"resolution": 72})
    scorer_of(cache, faces, other, brightness).score(assignment)
    assert len(brightness.asked) == 6


def test_the_content_counts_not_the_name(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing, write_clip: WriteClip
) -> None:
    brightness, cache = Brightness(), tmp_path / "cache"
    scorer_of(cache, faces, preparing, brightness).score(assignment)
    path = assignment.made[0].path
    assert path is not None
    renamed = path.rename(path.with_name("renamed.mp4"))
    scorer_of(cache, faces, preparing, brightness).score(replace(assignment, made=(Made("New", renamed),)))
    assert len(brightness.asked) == 2
    changed = write_clip("renamed.mp4", side=120, x=64)
    scorer_of(cache, faces, preparing, brightness).score(replace(assignment, made=(Made("New", changed),)))
    assert len(brightness.asked) == 3


def test_other_landmarks_make_other_scores(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing
) -> None:
    brightness = Brightness()
    for points_by in ("ours", "ours", "theirs"):
        scorer_of(tmp_path, replace(faces, points_by=points_by), preparing, brightness).score(assignment)
    assert len(brightness.asked) == 2 * 2


@dataclass
class Half(Brightness):
    """Knows one of its two numbers."""

    values: tuple[Value, ...] = (
        Value("brightness", "", "higher"),
        Value("other", "", "higher", undefined="no_silence: the clip has none"),
    )


def test_a_number_that_is_undefined_says_why(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing
) -> None:
    _, ours, _ = scorer_of(tmp_path / "cache", faces, preparing, Half()).score(assignment)
    assert ours.missing == {"brightness": "no_silence: the clip has none"}


ENTRY = {"reason": "", "detail": "", "used_s": 1.0, "notes": [], "scores": {}, "features": {}}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"scores": {}}),
        json.dumps(ENTRY | {"reason": "unknown"}),
        json.dumps(ENTRY | {"scores": {"brightness@1": {}}, "features": None}),
        json.dumps(ENTRY | {"scores": {"brightness@1": {"values": {}, "missing": ""}}}),
        json.dumps(ENTRY | {"scores": {"brightness@1": {"values": {"brightness": "a"}, "missing": ""}}}),
        json.dumps(ENTRY | {"features": {"fid@1": ["only one"]}}),
        json.dumps(ENTRY | {"notes": 1, "later": True}),
    ],
)
def test_an_entry_of_another_shape_is_measured_again(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing, content: str
) -> None:
    def score() -> list[ClipScores]:
        return scorer_of(tmp_path / "cache", faces, preparing, Brightness(), set_metrics=[Colours()]).score(
            assignment
        )

    first = score()
    for path in tmp_path.joinpath("cache").rglob("*.json"):
        path.write_text(content, encoding="utf-8")
    assert score() == first


@pytest.mark.parametrize("damaged", [b"", np.zeros((2, 4), np.float32), np.array(["a"]), np.zeros(3)])
def test_features_of_another_shape_are_measured_again(
    assignment: Assignment,
    tmp_path: Path,
    faces: Faces,
    preparing: Preparing,
    damaged: bytes | NDArray[np.generic],
) -> None:
    scorer = scorer_of(tmp_path / "cache", faces, preparing, set_metrics=[Colours()])
    scorer.score(assignment)
    paths = list(tmp_path.joinpath("cache").rglob("*.npy"))
    before = [path.read_bytes() for path in paths]
    for path in paths:
        if isinstance(damaged, bytes):
            path.write_bytes(damaged)
        else:
            np.save(path, damaged)
    scorer.score(assignment)
    assert len(paths) == 2 and [path.read_bytes() for path in paths] == before


METRICS = ([Brightness(), Difference()], [Colours()], [Unavailable("fvd", "not available: run it")])


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, faces: Faces, preparing: Preparing
) -> tuple[list[ClipScores], Cache]:
    """Three clips of two methods; the third clip of Theirs is missing."""
    folder = tmp_path_factory.mktemp("measured")
    write_clip = clip_writer(folder)
    scorer = scorer_of(folder / "cache", faces, preparing, *METRICS[0], set_metrics=METRICS[1])  # type: ignore[arg-type]
    scores: list[ClipScores] = []
    for number in range(3):
        real = write_clip(f"real{number}.mp4", x=44 + number)
        pair = Pair(
            name=f"<{number}>", setting="reconstruction", video=real, sound=real, speech=real, speaker=real
        )
        ours = Made("Ours", write_clip(f"ours{number}.mp4", x=44 + number, duration_s=1.0, sound=0.3))
        theirs = Made("Theirs", None, "no file") if number == 2 else Made("Theirs", real)
        scores += scorer.score(Assignment(pair, (ours, theirs)))
    return scores, scorer.cache


def totals_of(scores: list[ClipScores], cache: Cache) -> Totals:
    return total(scores, METRICS, cache, USUAL.intervals.replaced(set_resamples=20), seed=1)  # type: ignore[arg-type]


def test_totals_do_not_depend_on_the_order(measured: tuple[list[ClipScores], Cache]) -> None:
    scores, cache = measured
    assert totals_of(scores[::-1], cache).rows == tuple(
        sorted(
            totals_of(scores, cache).rows, key=lambda row: [REAL, "Ours", "Theirs"][::-1].index(row.method)
        )
    )


def test_every_mean_says_how_many_clips_it_has(measured: tuple[list[ClipScores], Cache]) -> None:
    _, ours, theirs = totals_of(*measured).rows
    assert (ours.used, theirs.used, theirs.excluded) == (3, 2, {"missing": 1})
    cell = ours.cells["brightness"]
    assert cell.clips == 3 and cell.low is not None and cell.value is not None and cell.high is not None
    assert cell.low <= cell.value <= cell.high
    assert theirs.cells["ssim"].value == 0


def test_a_distance_between_sets_is_that_of_all_features_at_once(
    measured: tuple[list[ClipScores], Cache],
) -> None:
    scores, cache = measured
    sides = [FeatureStatistics.empty(3) for _ in range(2)]
    for one in (one for one in scores if one.method == "Ours"):
        for side, key in zip(sides, one.features["fid"], strict=True):
            features = cache.read_features(key, width=3)
            assert features is not None
            side.add(features)
    cell = totals_of(scores, cache).rows[1].cells["fid"]
    assert cell.value == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert cell.low is not None and cell.high is not None and cell.low <= cell.high
