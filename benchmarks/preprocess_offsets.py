"""Shifts the speech of clips by known offsets and counts how many `latentsync preprocess` recovers.

    python benchmarks/preprocess_offsets.py MEDIA_DIR/train --work DIR [--clips 60] [--folders grid_s1]

Every clip of at least 3 s is copied twice: as it is, and with its sound moved by -6 to 6 frames (the pictures
are not encoded again). Recovered is an offset within one frame of the known one; `by itself` takes the clip
for synchronous, `against the copy` subtracts what was measured on the copy that was not moved.
Above 0: the speech is early.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from preprocess import command
from processes import circumstances

from latentsync.errors import MediaError
from latentsync.manifest import Decision
from latentsync.media.folder import find_videos
from latentsync.media.probe import probe
from latentsync.media.sound import read_audio
from latentsync.preprocess.run import collect

RESULTS = Path(__file__).parent / "results" / "preprocess_offsets.json"
RATE_HZ, SAMPLES_PER_FRAME = 16_000, 640
LARGEST_FRAMES, LEAST_S = 6, 3.0
# Everything is judged: no threshold stands between an offset and its row in the table.
OPEN = (
    "cut.min_s=2.5",
    "cut.length_s=5",
    "sync.min_confidence=0",
    "sync.min_confidence_compact=0",
    "sync.max_offset_frames=15",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One clip: the known offset, and what was measured on it and on its copy; None: it was not judged."""

    clip: str
    known: int
    measured: int | None
    confidence: float | None
    on_the_copy: int | None


def shifted(samples: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """The speech early by `frames` (late if below 0), as long as before; silence where nothing is known."""
    moved = np.zeros_like(samples)
    count = frames * SAMPLES_PER_FRAME
    if count >= 0:
        moved[: len(samples) - count] = samples[count:]
    else:
        moved[-count:] = samples[:count]
    return moved


def copy_with_sound(source: Path, target: Path, *, frames: int) -> None:
    """Copy the pictures of `source` as they are, beside its speech early by `frames`."""
    info = probe(source)
    if info.video is None or info.audio is None:
        raise MediaError(f"'{source}': needs pictures and sound")
    samples = read_audio(source, rate_hz=RATE_HZ, start_s=info.video.start_s - info.audio.start_s).samples
    levels = np.rint(np.clip(shifted(samples, frames), -1, 1) * 32767).astype(np.int16)
    with av.open(str(source)) as opened, av.open(str(target), "w") as written:
        pictures = opened.streams.video[0]
        copied = written.add_stream_from_template(pictures)
        speech = written.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        first_pts: int | None = None
        for packet in opened.demux(pictures):
            if packet.dts is None or packet.pts is None:
                continue
            first_pts = packet.pts if first_pts is None else first_pts
            packet.pts, packet.dts = packet.pts - first_pts, packet.dts - first_pts
            packet.stream = copied
            written.mux(packet)
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
        written.mux(speech.encode(frame))
        written.mux(speech.encode(None))


def choose(train: Path, folders: Sequence[str], clips: int) -> list[Path]:
    """Clips that are long enough and have sound, spread evenly over all of them."""
    found = []
    for path in (path for folder in folders for path in find_videos(train / folder).videos.values()):
        info = probe(path)
        if info.video and info.audio and info.video.duration_s >= LEAST_S - 0.05:
            found.append(path)
    return [found[index * len(found) // clips] for index in range(min(clips, len(found)))]


def longest(decisions: Sequence[Decision], source: str) -> Decision | None:
    """The longest clip of a source whose offset was measured."""
    judged = [one for one in decisions if one.source == source and one.offset_frames is not None]
    return max(judged, key=lambda one: one.frames or 0, default=None)


def make_clips(chosen: Sequence[Path], raw: Path) -> dict[str, int]:
    """Write both copies of every clip; returns the known offset of each, by name."""
    known = {}
    for number, path in enumerate(chosen):
        name = f"{number:03}-{path.parent.name}-{path.stem}.mkv"
        known[name] = number % (2 * LARGEST_FRAMES + 1) - LARGEST_FRAMES
        for folder, frames in (("moved", known[name]), ("copied", 0)):
            target = raw / folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                part = target.with_name(f"part-{name}")
                copy_with_sound(path, part, frames=frames)
                part.replace(target)
    return known


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folders", nargs="+", default=["grid_s1", "assorted"])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    raw, out = arguments.work / "raw", arguments.work / "out"
    known = make_clips(choose(arguments.train, arguments.folders, arguments.clips), raw)
    settings = [word for value in (*OPEN, *arguments.settings) for word in ("--set", value)]
    subprocess.run(command(raw, out, *settings), check=True)
    decisions = collect(out)
    rows = []
    for name, frames in sorted(known.items()):
        moved, copied = (longest(decisions, f"{folder}/{name}") for folder in ("moved", "copied"))
        rows.append(
            Row(
                clip=name,
                known=frames,
                measured=moved.offset_frames if moved else None,
                confidence=moved.confidence if moved else None,
                on_the_copy=copied.offset_frames if copied else None,
            )
        )
    errors = [row.measured - row.known for row in rows if row.measured is not None]
    against = [
        row.measured - row.known - row.on_the_copy
        for row in rows
        if row.measured is not None and row.on_the_copy is not None
    ]
    result = {
        "circumstances": circumstances(),
        "clips": len(rows),
        "judged": len(errors),
        "judges": sorted({str(one.judge) for one in decisions if one.judge}),
        "recovered_by_itself": sum(abs(error) <= 1 for error in errors),
        "recovered_against_the_copy": sum(abs(error) <= 1 for error in against),
        "rows": [asdict(row) for row in rows],
    }
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
