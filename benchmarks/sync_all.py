"""Runs `latentsync sync` on every test clip with every speech file, and checks and tabulates what comes out.

    python benchmarks/sync_all.py MEDIA_DIR --out DIR [--speech NAME...] [--clips NAME...] [--sheets DIR]

MEDIA_DIR holds the folders `test` (videos) and `speech`. One process per run; videos stay in DIR. With
--sheets, six frames of every video, whole and zoomed in on the mouth, are put side by side to be looked at.
The exit code is 1 if any result is not the expected one.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from processes import circumstances, latentsync_command, measure

from latentsync.media.probe import probe, require_audio, require_video
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio

RESULTS = Path(__file__).parent / "results" / "sync_all.json"
SPEECH = ("jfk.wav", "german.wav")
EXPECTED_EXIT = {"background_no_face": 5}
LIMIT_S = 1800.0
SOUND_TOLERANCE_S = 0.1  # codecs work in blocks of up to 1024 samples, and begin with one of silence
SHEET_COLUMNS, TILE_PX = 6, 256


@dataclass(frozen=True, slots=True)
class Row:
    """One run. `output_s` and `sound_s` are measured by decoding the file; None where there is none."""

    clip: str
    speech: str
    exit_code: int
    frames: int
    found: int
    bridged: int
    untouched: list[list[float]]
    seconds: float
    seconds_per_second: float
    processor_s: float
    peak_mb: float
    output_s: float | None
    sound_s: float | None
    expected_s: float
    problems: list[str]


def decoded_length(path: Path) -> tuple[int, float, float]:
    """Frames, seconds of picture and seconds of sound, by decoding all of it."""
    info = require_video(path)
    frames, last_s = 0, 0.0
    for frame in read_frames(path):
        frames, last_s = frames + 1, frame.time_s
    return frames, last_s + float(1 / info.fps), read_audio(path).duration_s


def faults(path: Path, frames: int, expected_s: float) -> tuple[list[str], float, float]:
    """What is wrong with an output, and its lengths."""
    source_frames, picture_s, sound_s = decoded_length(path)
    frame_s = float(1 / require_video(path).fps)
    problems = []
    if source_frames != frames:
        problems.append(f"{source_frames} frames decoded, {frames} reported")
    if not expected_s - 0.1 * frame_s <= picture_s <= expected_s + 1.5 * frame_s:
        problems.append(f"picture {picture_s:.3f} s, speech {expected_s:.3f} s")
    if abs(sound_s - expected_s) > SOUND_TOLERANCE_S:
        problems.append(f"sound {sound_s:.3f} s, speech {expected_s:.3f} s")
    return problems, picture_s, sound_s


def run_one(clip: Path, speech: Path, output: Path, model: str | None) -> Row:
    """One row of the table."""
    output.unlink(missing_ok=True)
    command = [latentsync_command(), "sync", str(clip), str(speech), "-o", str(output), "--json", "--quiet"]
    ran = measure([*command, *(["--model", model] if model else [])], limit_s=LIMIT_S)
    expected_s, expected_exit = require_audio(speech).duration_s, EXPECTED_EXIT.get(clip.stem, 0)
    told: dict[str, Any] = json.loads(ran.stdout) if ran.exit_code == 0 else {}
    problems: list[str] = []
    output_s = sound_s = None
    if ran.exit_code != expected_exit:
        problems.append(f"exit code {ran.exit_code}, expected {expected_exit}: {ran.stderr.strip()[-300:]}")
    elif expected_exit == 0:
        problems, output_s, sound_s = faults(output, told["frames"], expected_s)
    if "Traceback" in ran.stderr:
        problems.append("a traceback")
    if ran.exit_code != 0 and (output.exists() or list(output.parent.glob(f"{output.stem}*.part*"))):
        problems.append("left a file behind")
    return Row(
        clip=clip.stem,
        speech=speech.stem,
        exit_code=ran.exit_code,
        frames=told.get("frames", 0),
        found=told.get("frames_with_face", 0),
        bridged=told.get("bridged_frames", 0),
        untouched=told.get("untouched_s", []),
        seconds=round(ran.seconds, 2),
        seconds_per_second=round(ran.seconds / expected_s, 2),
        processor_s=round(ran.processor_s, 1),
        peak_mb=round(ran.peak_mb),
        output_s=None if output_s is None else round(output_s, 3),
        sound_s=None if sound_s is None else round(sound_s, 3),
        expected_s=round(expected_s, 3),
        problems=problems,
    )


def line(row: Row) -> str:
    """The row as text."""
    spans = " ".join(f"{start:.2f}-{end:.2f}" for start, end in row.untouched) or "-"
    length = "-" if row.output_s is None else f"{row.output_s:.2f}"
    verdict = "; ".join(row.problems) or "ok"
    return (
        f"{row.clip:24}{row.speech:10}{row.exit_code:5}{row.frames:8}{row.found:7}{row.seconds:9.1f}"
        f"{row.seconds_per_second:7.2f}{row.processor_s:9.1f}{row.peak_mb:8.0f}"
        f"{length:>8} /{row.expected_s:6.2f}  {spans}  {verdict}"
    )


def sheet(path: Path, target: Path) -> None:
    """Put six frames, and the mouths in them, into one picture."""
    from latentsync.faces.choice import FaceChoice
    from latentsync.faces.detect import Detector
    from latentsync.faces.landmarks import choose_landmarker
    from latentsync.faces.track import track

    frames = sum(1 for _ in read_frames(path))
    wanted = {round(index) for index in np.linspace(0, frames - 1, SHEET_COLUMNS + 2)[1:-1]}
    columns = []
    tracked_frames = track(
        read_frames(path),
        choice=FaceChoice(),
        resolution=TILE_PX,
        detector=Detector(),
        landmarker=choose_landmarker(),
    )
    for number, tracked in enumerate(tracked_frames):
        if number in wanted:
            points = None if tracked.face is None else tracked.face.points
            columns.append(column(tracked.frame.rgb_u8, points))
    cv2.imwrite(str(target), cv2.cvtColor(np.concatenate(columns, axis=1), cv2.COLOR_RGB2BGR))


def column(rgb_u8: NDArray[np.uint8], points: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """A frame above its mouth, both `TILE_PX` wide."""
    height, width = rgb_u8.shape[:2]
    zoom = TILE_PX / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    whole = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    whole[: size[1], : size[0]] = cv2.resize(rgb_u8, size, interpolation=cv2.INTER_AREA)
    mouth = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    if points is not None:
        centre = points[48:68].mean(0)
        scale = TILE_PX / (1.1 * float(np.ptp(points[:17, 0])))
        move = np.array(
            [[scale, 0, TILE_PX / 2 - scale * centre[0]], [0, scale, TILE_PX / 2 - scale * centre[1]]]
        )
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        mouth = np.asarray(cv2.warpAffine(rgb_u8, move, (TILE_PX, TILE_PX), flags=way), np.uint8)
    return np.concatenate([whole, mouth])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("media_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="where the videos go")
    parser.add_argument("--speech", nargs="+", default=SPEECH, metavar="NAME")
    parser.add_argument(
        "--clips", nargs="+", metavar="NAME", help="only these; default: all of MEDIA_DIR/test"
    )
    parser.add_argument("--model", help="default: compact")
    parser.add_argument("--sheets", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for folder in (arguments.out, arguments.json.parent, *([arguments.sheets] if arguments.sheets else [])):
        folder.mkdir(parents=True, exist_ok=True)
    clips = sorted(path for path in (arguments.media_dir / "test").iterdir() if probe(path).video)
    if arguments.clips:
        clips = [clip for clip in clips if clip.stem in arguments.clips]
    before = circumstances()
    print(
        f"{'clip':24}{'speech':10}{'exit':>5}{'frames':>8}{'found':>7}{'seconds':>9}{'s/s':>7}{'cpu s':>9}"
        f"{'MB':>8}{'output':>8} /{'want':>6}  untouched  result"
    )
    rows: list[Row] = []
    for clip in clips:
        for name in arguments.speech:
            speech = arguments.media_dir / "speech" / name
            output = arguments.out / f"{clip.stem}_{speech.stem}.mp4"
            rows.append(run_one(clip, speech, output, arguments.model))
            print(line(rows[-1]), flush=True)
            if arguments.sheets and output.exists():
                sheet(output, arguments.sheets / f"{output.stem}.png")
            report = {"circumstances": before, "model": arguments.model or "compact"}
            report["runs"] = [asdict(row) for row in rows]
            arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    bad = sum(bool(row.problems) for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} as expected; written to {arguments.json}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
