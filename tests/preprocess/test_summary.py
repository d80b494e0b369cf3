"""The funnel adds up, and the pictures show what is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from latentsync.events import Event, Note, ignore
from latentsync.manifest import Decision
from latentsync.media.write import write_video
from latentsync.preprocess.summary import count_decisions, draw_pictures


def kept(number: int, clip: str | None = None) -> Decision:
    return Decision(
        source=f"{number}.mp4",
        outcome="kept",
        clip=clip or f"clips/{number}.mp4",
        frames=50,
        fps=25.0,
        offset_frames=number % 5 - 2,
        confidence=4.0 + number,
        judge="compact",
    )


def lost(source: str, outcome: str, reason: str) -> Decision:
    return Decision(source=source, outcome=outcome, reason=reason)  # type: ignore[arg-type]


DECISIONS = [
    kept(1),
    kept(1),
    kept(2),
    lost("1.mp4", "dropped", "no_face"),
    lost("3.mp4", "dropped", "no_face"),
    lost("3.mp4", "dropped", "low_quality"),
    lost("4.mp4", "failed", "crashed"),
]


def test_what_goes_in_comes_out_or_has_a_reason() -> None:
    funnel = count_decisions(DECISIONS)
    assert (funnel.sources, funnel.sources_kept, funnel.clips, funnel.kept, funnel.kept_s) == (
        4,
        2,
        7,
        3,
        6.0,
    )
    assert list(funnel.dropped.items()) == [("no_face", 2), ("low_quality", 1)]
    assert funnel.failed == {"crashed": 1}
    assert funnel.clips == funnel.kept + sum(funnel.dropped.values()) + sum(funnel.failed.values())
    assert [line.split() for line in funnel.lines()[3:6]] == [
        ["dropped", "3", "42.9%"],
        ["no_face", "2", "28.6%"],
        ["low_quality", "1", "14.3%"],
    ]


def test_the_contact_sheet_shows_every_clip_and_says_which_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number, level in enumerate((40, 200)):
        path = tmp_path / f"clips/{number}.mp4"
        write_video(path, [np.full((64, 64, 3), level, np.uint8)] * 3)
    decisions = [replace(kept(number), frames=3) for number in range(3)]
    events: list[Event] = []
    pictures = draw_pictures(tmp_path, decisions, events.append)
    assert [path.name for path in pictures] == [
        "contact_sheet.png",
        "durations.png",
        "offsets.png",
        "confidences.png",
    ]
    sheet = cv2.imread(str(pictures[0]))
    assert sheet is not None and sheet.shape == (146, 256, 3)
    assert [round(float(sheet[64, column].mean()), -1) for column in (64, 192)] == [40, 200]
    assert any(isinstance(event, Note) and "clips/2.mp4" in event.message for event in events)


def test_without_a_kept_clip_there_are_histograms_only(tmp_path: Path) -> None:
    pictures = draw_pictures(tmp_path, [lost("a", "dropped", "no_face")], ignore)
    assert [path.name for path in pictures] == ["durations.png", "offsets.png", "confidences.png"]
    assert all(path.stat().st_size > 1000 for path in pictures)
