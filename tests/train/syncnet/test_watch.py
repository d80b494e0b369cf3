"""A run that does not learn says so once, and draws what it predicts."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from PIL import Image

from latentsync.events import Event, Note
from latentsync.train.log import Row
from latentsync.train.syncnet.watch import SyncNetWatch, animate
from tests.networks import PAPER_RECIPE


def test_a_plateau_is_told_once_with_a_picture(tmp_path: Path) -> None:
    events: list[Event] = []
    pairs = deque([(0.5, 1.0), (0.51, 0.0)])
    watch = SyncNetWatch(PAPER_RECIPE, [], pairs, tmp_path, events.append)
    rows: list[Row] = []
    for number in range(1, 15):
        loss = 0.693 if number < 13 else 0.5
        rows.append({"samples": number * 1000, "steps": number * 40, "losses": {"bce": loss}})
        watch(rows)
    (note,) = events
    assert isinstance(note, Note) and note.level == "warning"
    picture = tmp_path / "pictures" / "plateau-000320.png"
    assert picture.stat().st_size > 5000
    assert str(picture) in note.message and "batch: 1024" in note.message
    assert not watch.is_stuck
    kept = sorted((tmp_path / "pictures" / "probabilities").iterdir())
    assert [path.name for path in kept] == [f"step-{steps:07d}.png" for steps in (120, 200, 320, 400, 520)]
    animate(tmp_path / "pictures" / "probabilities", tmp_path / "all.gif")
    with Image.open(tmp_path / "all.gif") as animation:
        assert animation.n_frames > 1  # equal pictures are joined
