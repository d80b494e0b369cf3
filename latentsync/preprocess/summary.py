"""The outcome of a run: the funnel in numbers, and pictures of the kept clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from latentsync.errors import MediaError
from latentsync.events import Note, Progress, Report
from latentsync.files import whole_or_nothing
from latentsync.manifest import Decision
from latentsync.media.read import read_frames
from latentsync.rates import VIDEO_FPS
from latentsync.types import FrameImage

FOLDER = "summary"
FILTERS = {
    "syncnet-v2": "SyncNet v2",
    "compact": "the bundled SyncNet (not the paper's v2)",
    "hyperiqa": "HyperIQA",
    "sharpness": "sharpness (not the paper's HyperIQA)",
}
_COLUMNS, _ROWS, _TILE_PX = 8, 6, 128
_BAND_PX = 18


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many sources and clips went in and came out.

    sources  with at least one decision
    clips    spans of sources that a step decided on; a source that was dropped or failed as a whole is one
    dropped  clips by reason, the most frequent first
    failed   the same for failures
    filters  which SyncNet and which quality measure decided on the clips, and whether they are the paper's
    """

    sources: int
    sources_kept: int
    clips: int
    kept: int
    kept_s: float
    dropped: dict[str, int]
    failed: dict[str, int]
    filters: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The counts in values that JSON can express."""
        return {
            "sources": self.sources,
            "sources_with_kept_clips": self.sources_kept,
            "clips": self.clips,
            "kept": self.kept,
            "kept_s": round(self.kept_s, 2),
            "dropped": self.dropped,
            "failed": self.failed,
            "filters": list(self.filters),
        }

    def lines(self) -> list[str]:
        """The counts as a table for people."""
        rows: list[tuple[str, int, str]] = [
            ("sources", self.sources, ""),
            ("  with a kept clip", self.sources_kept, _share(self.sources_kept, self.sources)),
            ("clips in", self.clips, ""),
        ]
        for title, counts in (("dropped", self.dropped), ("failed", self.failed)):
            total = sum(counts.values())
            rows.append((f"  {title}", total, _share(total, self.clips)))
            rows += [(f"    {reason}", count, _share(count, self.clips)) for reason, count in counts.items()]
        rows.append(("clips out", self.kept, _share(self.kept, self.clips)))
        width = max(len(title) for title, _, _ in rows)
        lines = [f"{title:<{width}}  {count:>9,}  {share:>7}".rstrip() for title, count, share in rows]
        return [*lines, f"{'length out':<{width}}  {_length(self.kept_s):>9}", *self.filters]


def _length(seconds: float) -> str:
    """Seconds in a unit that fits.

    >>> _length(7.2), _length(250), _length(9000)
    ('7.2 s', '4.2 min', '2.50 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def count_decisions(decisions: Sequence[Decision]) -> Funnel:
    """Count what went in and came out."""
    kept = [decision for decision in decisions if decision.outcome == "kept"]
    return Funnel(
        sources=len({decision.source for decision in decisions}),
        sources_kept=len({decision.source for decision in kept}),
        clips=len(decisions),
        kept=len(kept),
        kept_s=sum((decision.frames or 0) / (decision.fps or VIDEO_FPS) for decision in kept),
        dropped=_reasons(decisions, "dropped"),
        failed=_reasons(decisions, "failed"),
        filters=tuple(
            f"{what} by {', '.join(sorted(FILTERS.get(name, name) for name in names))}"
            for what, names in (
                ("sync", {decision.judge for decision in decisions if decision.judge}),
                ("quality", {one.quality_measure for one in decisions if one.quality_measure}),
            )
            if names
        ),
    )


def _reasons(decisions: Sequence[Decision], outcome: str) -> dict[str, int]:
    counts = Counter(decision.reason for decision in decisions if decision.outcome == outcome)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def draw_pictures(out: Path, decisions: Sequence[Decision], report: Report) -> list[Path]:
    """Draw a contact sheet of kept clips, and histograms of duration, offset and confidence.

    Args:
        out: the folder that the paths of the clips are relative to; the pictures go to `out/summary`.
        decisions: in any order; the same decisions give the same pictures.

    Returns:
        The pictures. Without a kept clip there is no contact sheet.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    judged = [decision for decision in decisions if decision.confidence is not None]
    written = [decision for decision in decisions if decision.outcome == "kept"]
    durations = {"kept": [(decision.frames or 0) / (decision.fps or VIDEO_FPS) for decision in written]}
    judges = ", ".join(sorted({str(decision.judge) for decision in judged})) or "no judge"
    paths = [
        _histogram(folder / "durations.png", durations, label="seconds", title="Duration of the kept clips"),
        _histogram(
            folder / "offsets.png",
            _by_outcome(judged, "offset_frames"),
            label="frames (positive: the speech was early)",
            title="Offset of the speech",
            is_whole=True,
        ),
        _histogram(
            folder / "confidences.png",
            _by_outcome(judged, "confidence"),
            label=f"confidence ({judges})",
            title="Confidence of the judge of sync",
        ),
    ]
    sheet = _contact_sheet(out, sorted(written, key=lambda decision: decision.clip or ""), report)
    return paths if sheet is None else [sheet, *paths]


def _by_outcome(decisions: Sequence[Decision], value: str) -> dict[str, list[float]]:
    return {
        outcome: [getattr(decision, value) for decision in decisions if decision.outcome == outcome]
        for outcome in ("kept", "dropped")
    }


def _histogram(
    path: Path, groups: dict[str, list[float]], *, label: str, title: str, is_whole: bool = False
) -> Path:
    """Draw the groups on top of each other; whole numbers get a bar each."""
    from matplotlib.figure import Figure

    values = [value for group in groups.values() for value in group]
    edges: Any = 40
    if is_whole and values:
        # Half a step off, so that every whole number is in the middle of its bar.
        edges = np.arange(min(values) - 0.5, max(values) + 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{name} ({len(group)})" for name, group in groups.items()]
    axes.hist(
        list(groups.values()),
        bins=edges,
        stacked=True,
        label=names,
        color=["#3b6fb6", "#c9764b"][: len(names)],
    )
    axes.set(xlabel=label, ylabel="clips", title=title)
    axes.legend()
    with whole_or_nothing(path) as part, part.open("wb") as file:
        figure.savefig(file, format="png")
    return path


def _contact_sheet(out: Path, kept: Sequence[Decision], report: Report) -> Path | None:
    """Middle frames of clips spread evenly over all kept ones, with offset and confidence below."""
    if not kept:
        return None
    count = min(len(kept), _COLUMNS * _ROWS)
    chosen = [kept[index * len(kept) // count] for index in range(count)]
    tiles: list[FrameImage] = []
    for decision in chosen:
        report(Progress("contact sheet", len(tiles), count, "clips"))
        try:
            tiles.append(_tile(out, decision))
        except MediaError as error:
            report(Note(f"not on the contact sheet: {error}", "warning"))
    report(Progress("contact sheet", count, count, "clips"))
    if not tiles:
        return None
    columns = min(_COLUMNS, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    path = out / FOLDER / "contact_sheet.png"
    _, encoded = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    with whole_or_nothing(path) as part:
        part.write_bytes(encoded.tobytes())
    return path


def _tile(out: Path, decision: Decision) -> FrameImage:
    middle = (decision.frames or 1) // 2
    path = out / (decision.clip or "")
    for frame in read_frames(path):
        if frame.index >= middle:
            tile = np.full((_TILE_PX + _BAND_PX, _TILE_PX, 3), 255, np.uint8)
            tile[:_TILE_PX] = cv2.resize(frame.rgb_u8, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA)
            if decision.confidence is not None:
                text = f"{decision.offset_frames or 0:+d}  {decision.confidence:.1f}"
                corner, black = (4, _TILE_PX + _BAND_PX - 5), (0, 0, 0)
                cv2.putText(tile, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, black, 1, cv2.LINE_AA)
            return tile
    raise MediaError(f"'{path}': has no frame {middle}")
