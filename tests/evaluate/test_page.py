"""The page in a real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from latentsync.evaluate.cache import Cache
from latentsync.evaluate.findings import Findings
from latentsync.evaluate.page import write_page
from latentsync.evaluate.plots import Group, Panel, strip_plot
from latentsync.evaluate.score import REAL, ClipScores
from latentsync.evaluate.totals import Cell, Column, MethodRow, Totals

NAMES = ("sync_conf", "sync_offset")


def findings_of(clips: int) -> Findings:
    scores = [
        ClipScores(
            clip=f"clip {number}",
            setting="cross",
            method=method,
            values={"sync_conf": 5 + number % 7 / 3, "sync_offset": float(number % 3 - 1)},
        )
        for number in range(clips)
        for method in (REAL, "Ours & co")
    ]
    columns = tuple(Column(name, "", "higher", "sync_conf", False) for name in NAMES)
    cells = {name: Cell(5.0, 4.5, 5.5, clips) for name in NAMES}
    rows = tuple(MethodRow("cross", method, clips, clips, cells) for method in (REAL, "Ours & co"))
    return Findings(title="A test", facts=(), totals=Totals(columns, rows), scores=tuple(scores))


def test_it_stays_small_for_many_clips(tmp_path: Path) -> None:
    assert len(write_page(findings_of(5000), Cache(tmp_path))) < 1_000_000


def test_equal_values_can_be_drawn() -> None:
    drawing = strip_plot("equal", [Group("a", [("x", 0.0), ("y", 0.0)], 0.0, 0.0, 0.0)])
    assert "nan" not in drawing and drawing.count("<circle") == 2


def test_a_panel_puts_values_where_they_belong() -> None:
    panel = Panel(100, 100, (0, 10), (0, 10), left=10, bottom=10, top=0, right=0)
    assert (panel.at_x(0), panel.at_x(10), panel.at_y(0), panel.at_y(10)) == (10, 100, 90, 0)


def test_a_browser_shows_it(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    (tmp_path / "report.html").write_text(write_page(findings_of(5), Cache(tmp_path)), encoding="utf-8")
    url = (tmp_path / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run([browser, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    assert "<h2>Cross</h2>" in shown.stdout
    assert shown.stdout.count("<svg") == 4
    assert "Ours &amp; co" in shown.stdout
    assert "Content Security Policy" not in shown.stderr
