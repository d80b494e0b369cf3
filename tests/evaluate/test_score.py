"""Scores of one pair, and what the cache spares."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.evaluate.cache import Cache
from latentsync.evaluate.findings import Findings, as_dict
from latentsync.evaluate.page import write_page
from latentsync.evaluate.pairs import Pair
from latentsync.evaluate.prepare import Faces
from latentsync.evaluate.score import REAL, Assignment, ClipScores, Made, Scorer
from latentsync.evaluate.table import certainty, table_lines, write_csv
from latentsync.evaluate.totals import NO_CLIP, Cell, MethodRow, Totals, total
from latentsync.metrics.metric import (
    ClipMetric,
    FeatureStatistics,
    Missing,
    Need,
    ScoredClip,
    SetMetric,
    Side,
    Unavailable,
    Value,
)
from latentsync.metrics.statistics import frechet_distance
from latentsync.recipe.evaluate import Intervals, PaperRow, Preparing

from .conftest import WriteClip, clip_writer


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


def test_a_damaged_entry_is_measured_again(
    assignment: Assignment, tmp_path: Path, faces: Faces, preparing: Preparing
) -> None:
    brightness, cache = Brightness(), tmp_path / "cache"
    first = scorer_of(cache, faces, preparing, brightness).score(assignment)
    for path in cache.rglob("*.json"):
        path.write_text("{", encoding="utf-8")
    assert scorer_of(cache, faces, preparing, brightness).score(assignment) == first


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
    return total(scores, METRICS, cache, Intervals(set_resamples=20), seed=1)  # type: ignore[arg-type]


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
            features = cache.read_features(key)
            assert features is not None
            side.add(features)
    cell = totals_of(scores, cache).rows[1].cells["fid"]
    assert cell.value == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert cell.low is not None and cell.high is not None and cell.low <= cell.high


@pytest.fixture
def findings(measured: tuple[list[ClipScores], Cache]) -> Findings:
    return Findings(
        title="Lip sync on <tiny>",
        facts=(("data", "a & b"),),
        totals=totals_of(*measured),
        scores=tuple(measured[0]),
        paper=(PaperRow(method="Wav2Lip", values={"ssim": 0.7, "fid": 12.5, "fvd": 300, "lpips": 1}),),
        paper_settings={"ssim": ("reconstruction",), "fid": ("cross",)},
        paper_source="a paper",
    )


def test_the_table_shows_the_paper_only_where_it_measured(findings: Findings) -> None:
    lines = table_lines(findings)
    assert lines[0].split() == ["reconstruction", REAL, "Ours", "Theirs", "Wav2Lip*"]
    by_name = {line.split()[0]: line for line in lines if line}
    assert by_name["ssim"].endswith("0.7")
    assert not by_name["fid"].endswith("12.5")
    assert by_name["Theirs:"] == "Theirs: 1 of 3 clips excluded: missing 1"
    # A number that cannot be measured here is shown as the paper's only; one that nobody asked for is not.
    assert by_name["fvd"].split() == ["fvd", "–", "–", "–", "300"]
    assert "lpips" not in by_name
    assert "fvd: not available: run it" in lines


def test_the_csv_has_a_reason_for_every_missing_score(findings: Findings, tmp_path: Path) -> None:
    write_csv(findings, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * 3 * 2
    assert all(bool(row["value"]) != bool(row["reason"]) for row in rows)
    assert {row["reason"] for row in rows if row["method"] == "Theirs"} == {"", "missing: no file"}


def test_other_clips_are_said_to_be_others(findings: Findings) -> None:
    said = "methods were scored on different clips: their means do not compare"
    assert said in table_lines(findings)
    same = replace(findings, scores=tuple(one for one in findings.scores if one.method != "Theirs"))
    assert said not in table_lines(same)


def test_a_reason_is_that_of_clips_that_were_scored(findings: Findings) -> None:
    cells = [Cell(missing="no_reference: none"), Cell(missing=NO_CLIP)]
    rows = tuple(MethodRow("cross", str(place), 1, 1, {"ssim": cell}) for place, cell in enumerate(cells))
    found = replace(findings, totals=replace(findings.totals, rows=rows), paper=())
    assert "ssim" in found.absent("cross")["no_reference: none"]


def test_sizes_are_counted_together(findings: Findings) -> None:
    notes = [f"{side}x{side} px, the input 96x96: cut around its own face" for side in (64, 80)]
    scores = tuple(ClipScores(clip=note, setting="cross", method="Ours", notes=(note,)) for note in notes)
    told = replace(findings, scores=scores).notes()
    assert told == {"Ours: another size than the input: cut around its own face": 2}


def test_the_numbers_say_what_was_done(findings: Findings) -> None:
    told = as_dict(findings)
    assert told["not_available"] == {"fvd": "not available: run it"}
    assert told["matched"] == {"Ours: compared in part": 3}


def test_the_page_escapes_names_and_holds_everything_itself(
    findings: Findings, measured: tuple[list[ClipScores], Cache]
) -> None:
    page = write_page(findings, measured[1])
    assert "&lt;tiny&gt;" in page and "<tiny>" not in page
    for cell in findings.totals.rows[1].cells.values():
        assert certainty(cell) in page
    assert page.count("data:image/jpeg;base64,") == 5
    for loading in ("<script", "<link", "http://", "https://", "url(", "@import"):
        assert loading not in page
