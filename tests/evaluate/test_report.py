"""What an evaluation shows: the table, the CSV, the numbers and the page."""

from __future__ import annotations

import base64
import csv
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.evaluate import report as page_of_report
from latentsync.evaluate.report import (
    EvaluationReport,
    as_dict,
    closing_remarks,
    text_table,
    write_csv,
    write_page,
)
from latentsync.evaluate.score import REAL, Cache, ClipScores
from latentsync.evaluate.totals import NO_CLIP, Cell, Column, MethodRow, Totals
from latentsync.metrics.metric import Unavailable
from latentsync.recipe.evaluate import PaperRow

COLUMNS = (
    Column("ssim", "", "higher", "ssim", False),
    Column("lag", "frames", "real", "aperture", False),
    Column("fid", "", "lower", "fid", True),
)
MEANS = {REAL: (None, 1.0, None), "Ours": (0.9, 3.0, 10.0), "Theirs": (0.8, 0.5, 20.0)}


def clip_of(method: str, number: int, ssim: float | None) -> ClipScores:
    if ssim is None:
        missing = {"ssim": "no_reference: a real video is its own reference"}
        return ClipScores(
            clip=f"<{number}>", setting="reconstruction", method=method, values={"lag": 1}, missing=missing
        )
    values = {"ssim": ssim - number / 100, "lag": 1.0}
    notes = ("0.80 s compared, from 0.00 s on, of 0.80 s and 1.20 s",) if method == "Ours" else ()
    return ClipScores(
        clip=f"<{number}>",
        setting="reconstruction",
        method=method,
        values=values,
        notes=notes,
        picture=f"{number}",
    )


@pytest.fixture
def report() -> EvaluationReport:
    """Three clips of two methods; the third clip of Theirs is missing."""
    scores = [clip_of(method, number, means[0]) for method, means in MEANS.items() for number in range(3)]
    missing = {"values": {}, "notes": (), "picture": "", "reason": "missing", "detail": "no file"}
    scores[-1] = replace(scores[-1], **missing)  # type: ignore[arg-type]
    rows = []
    for method, means in MEANS.items():
        cells = {
            column.name: Cell(missing="no_reference: none") if mean is None else Cell(mean, mean, mean, 3)
            for column, mean in zip(COLUMNS, means, strict=True)
        }
        is_whole = method != "Theirs"
        excluded = {} if is_whole else {"missing": 1}
        rows.append(MethodRow("reconstruction", method, 3, 3 if is_whole else 2, cells, excluded))
    return EvaluationReport(
        title="Lip sync on <tiny>",
        facts=(("data", "a & b"), ("recipe", "one = 1\ntwo = 2")),
        totals=Totals(COLUMNS, tuple(rows), (Unavailable("fvd", "not available: run it"),)),
        scores=tuple(scores),
        definitions={"ssim": "Structural similarity."},
        paper=(PaperRow(method="Wav2Lip", values={"ssim": 0.7, "fid": 12.5, "fvd": 300, "lpips": 1}),),
        paper_settings={"ssim": ("reconstruction",), "fid": ("cross",)},
        paper_source="a paper",
    )


@pytest.fixture
def fair(report: EvaluationReport) -> EvaluationReport:
    """Both methods were scored on the same clips."""
    return replace(report, scores=tuple(one for one in report.scores if one.clip != "<2>"))


def test_the_table_shows_the_paper_only_where_it_measured(report: EvaluationReport) -> None:
    table = text_table(report, "reconstruction")
    assert table.columns == ["reconstruction", REAL, "Ours", "Theirs", "Wav2Lip (paper)"]
    by_name = {row[0].split()[0]: row for row in table.rows}
    assert by_name["ssim"][-1] == "0.7"
    assert by_name["fid"][-1] == ""
    assert "Theirs: 1 of 3 clips excluded: missing 1" in table.remarks
    # A number that cannot be measured here is shown as the paper's only; one that nobody asked for is not.
    assert by_name["fvd"] == ["fvd", "–", "–", "–", "300"]
    assert "lpips" not in by_name
    assert closing_remarks(report) == ["(paper): stated in a paper", "fvd: not available: run it"]


def test_the_best_method_of_each_number_is_marked(fair: EvaluationReport) -> None:
    best = {column.name: fair.best("reconstruction", column) for column in COLUMNS}
    # More is better, nearer to the real videos is better, less is better.
    assert best == {"ssim": {"Ours"}, "lag": {"Theirs"}, "fid": {"Ours"}}
    marked = ["*" in row[2] for row in text_table(fair, "reconstruction").rows]
    assert marked == [False, True, False, True, False]


def test_nothing_is_best_where_means_do_not_compare(report: EvaluationReport) -> None:
    remarks = text_table(report, "reconstruction").remarks
    assert any(remark.startswith("methods were scored on different clips") for remark in remarks)
    assert not any(report.best("reconstruction", column) for column in COLUMNS)


def test_equal_means_are_not_marked(fair: EvaluationReport) -> None:
    rows = tuple(replace(row, cells={"ssim": Cell(0.9, clips=2)}) for row in fair.totals.rows)
    assert not replace(fair, totals=replace(fair.totals, rows=rows)).best("reconstruction", COLUMNS[0])


def test_a_network_that_taught_the_model_is_marked_and_never_the_best(fair: EvaluationReport) -> None:
    taught = replace(fair, taught={"Ours": frozenset({"ssim"})})
    assert not taught.best("reconstruction", COLUMNS[0])
    table = text_table(taught, "reconstruction")
    assert [row[2].split()[0] for row in table.rows if row[0].startswith("ssim")] == ["0.9!"]
    assert any(remark.startswith("! the model was trained with this network") for remark in table.remarks)
    assert as_dict(taught)["taught"] == {"Ours": ["ssim"]}


def test_the_csv_has_a_reason_for_every_missing_score(report: EvaluationReport, tmp_path: Path) -> None:
    write_csv(report, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * 3 * 2
    assert all(bool(row["value"]) != bool(row["reason"]) for row in rows)
    assert {row["reason"] for row in rows if row["method"] == "Theirs"} == {"", "missing: no file"}


def test_a_reason_is_that_of_clips_that_were_scored(report: EvaluationReport) -> None:
    cells = [Cell(missing="no_reference: none"), Cell(missing=NO_CLIP)]
    rows = tuple(MethodRow("cross", str(index), 1, 1, {"ssim": cell}) for index, cell in enumerate(cells))
    found = replace(report, totals=replace(report.totals, rows=rows), paper=())
    assert "ssim" in found.absent("cross")["no_reference: none"]


def test_sizes_are_counted_together(report: EvaluationReport) -> None:
    notes = [f"{side}x{side} px, the input 96x96: cut around its own face" for side in (64, 80)]
    scores = tuple(ClipScores(clip=note, setting="cross", method="Ours", notes=(note,)) for note in notes)
    counted = replace(report, scores=scores).notes()
    assert counted == {"Ours: another size than the input: cut around its own face": 2}


def test_the_numbers_say_what_was_done(report: EvaluationReport) -> None:
    values = as_dict(report)
    assert values["not_available"] == {"fvd": "not available: run it"}
    assert values["matched"] == {"Ours: compared in part": 3}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """With pictures of all clips."""
    cache = Cache(tmp_path / "cache")
    _, jpeg = cv2.imencode(".jpg", np.zeros((32, 96, 3), np.uint8))  # six frames of input and method
    for number in range(3):
        cache.write_picture(str(number), jpeg.tobytes())
    return cache


def test_the_page_escapes_names_and_holds_everything_itself(report: EvaluationReport, cache: Cache) -> None:
    page = write_page(report, cache)
    assert "&lt;tiny&gt;" in page and "<tiny>" not in page
    for shown in ("[0.9, 0.9]", "Structural similarity.", "a &amp; b", "one = 1"):
        assert shown in page
    # Three of the worst clips of one method, two of the other, and one clip by both.
    assert page.count("data:image/jpeg;base64,") == 6
    assert "&lt;0&gt;, from top to bottom: input, Ours, Theirs" in page
    assert "fvd" in page[page.index("Stated in a paper") :], "the paper's numbers have a table of their own"
    for loading in ("<script", "<link", "http://", "https://", "url(", "@import"):
        assert loading not in page


def test_clips_play_in_the_page(
    report: EvaluationReport, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_report, "play_beside", lambda source, made: f"{source} {made}".encode())
    videos = {("reconstruction", "<1>", name): Path(name) for name in (REAL, "Ours")}
    page = write_page(replace(report, videos=videos), cache)
    content = base64.b64encode(f"{REAL} Ours".encode()).decode()
    assert page.count("<video") == 1 and f'src="data:video/mp4;base64,{content}"' in page
    assert "media-src data:" in page


def test_the_page_stays_small_for_many_clips(report: EvaluationReport, cache: Cache) -> None:
    scores = tuple(clip_of("Ours", number, 0.9) for number in range(5000))
    assert len(write_page(replace(report, scores=scores), cache)) < 1_000_000


def test_a_browser_shows_the_page(report: EvaluationReport, cache: Cache, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    (tmp_path / "report.html").write_text(write_page(report, cache), encoding="utf-8")
    url = (tmp_path / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run([browser, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    assert "<h2>Reconstruction</h2>" in shown.stdout
    assert shown.stdout.count('<img class="plot"') == 2
    assert "Content Security Policy" not in shown.stderr
