"""The means as a paper prints them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.evaluate.report import EvaluationReport, as_dict, text_table, write_page
from latentsync.evaluate.score import REAL, Cache, ClipScores
from latentsync.evaluate.tables import write_tables
from latentsync.evaluate.totals import Cell, Column, MethodRow, Totals
from latentsync.recipe.evaluate import PaperRow

COLUMNS = (
    Column("sync_conf", "LSE-C", "higher", "sync_conf", False),
    Column("fid", "", "lower", "fid", True),
)
MEANS = {REAL: (8.0, None), "A|B": (7.0, 5.0), "C_1": (6.0, 9.0)}


@pytest.fixture
def report() -> EvaluationReport:
    rows = [
        MethodRow(
            "cross",
            method,
            2,
            2,
            {
                column.name: Cell() if mean is None else Cell(mean, mean, mean, 2)
                for column, mean in zip(COLUMNS, means, strict=True)
            },
            {},
        )
        for method, means in MEANS.items()
    ]
    scores = tuple(ClipScores(clip="one", setting="cross", method=method) for method in MEANS)
    paper = (PaperRow(method="Paper's", values={"fid": 12.5}),)
    return EvaluationReport(
        title="x", facts=(), totals=Totals(COLUMNS, tuple(rows), ()), scores=scores, paper=paper
    )


def test_markdown_has_the_best_in_bold(report: EvaluationReport) -> None:
    assert write_tables(report, "md").splitlines() == [
        "### cross",
        "",
        "| method | sync_conf (LSE-C) ↑ | fid ↓ |",
        "| --- | --- | --- |",
        "| real videos | 8 |  |",
        "| A\\|B | **7** | **5** |",
        "| C_1 | 6 | 9 |",
        "| Paper's (paper) |  | 12.5 |",
    ]


def test_csv_has_a_line_for_each_mean(report: EvaluationReport) -> None:
    lines = list(csv.DictReader(io.StringIO(write_tables(report, "csv"))))
    assert len(lines) == 6
    assert lines[1] == {
        "setting": "cross",
        "method": "A|B",
        "number": "sync_conf (LSE-C) ↑",
        "mean": "7",
        "mark": "best",
    }


def test_what_taught_a_model_is_marked_in_every_form(report: EvaluationReport, tmp_path: Path) -> None:
    taught = replace(report, taught={"A|B": frozenset({"sync_conf"})})
    says = "the model was trained with this network"
    assert "| 7! |" in write_tables(taught, "md") and says in write_tables(taught, "md")
    rows = list(csv.DictReader(io.StringIO(write_tables(taught, "csv"))))
    assert [row["mark"] for row in rows if row["number"].startswith("sync_conf")] == ["", "taught", ""]
    assert r"7$^\dagger$" in write_tables(taught, "tex")
    page = write_page(taught, Cache(tmp_path))
    assert ">7 <b>!</b>" in page and says in page
    assert as_dict(taught)["taught"] == {"A|B": ["sync_conf"]}
    table = text_table(taught, "cross")
    assert any("7!" in " ".join(row) for row in table.rows) and any(says in line for line in table.remarks)
    for form in ("md", "csv", "tex"):
        text = write_tables(report, form)  # type: ignore[arg-type]
        assert says not in text and "taught" not in text
    assert says not in write_page(report, Cache(tmp_path))


def test_latex_is_escaped_and_marks_what_taught_a_model(report: EvaluationReport) -> None:
    taught = replace(report, taught={"A|B": frozenset({"sync_conf"})})
    lines = write_tables(taught, "tex").splitlines()
    assert lines[:2] == [
        r"\begin{table}",
        r"\caption{Cross. $\dagger$ the model was trained with this network: its score says little.}",
    ]
    assert r"method & sync\_conf (LSE-C) $\uparrow$ & fid $\downarrow$ \\" in lines
    assert r"A|B & 7$^\dagger$ & \textbf{5} \\" in lines
    assert r"C\_1 & 6 & 9 \\" in lines
