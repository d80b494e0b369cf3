"""Whether memory grows with length: the peak for a short and a long 720p input, and on the way.

    python benchmarks/memory.py CLIP SPEECH [--minutes 1 10] [--limit-s S] [--model MODEL]

The inputs are CLIP, scaled to 1280x720 or 720x1280 and played back and forth; SPEECH is repeated. A run that
is stopped by --limit-s still tells how much was held at each minute of the output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from material import make_clip, repeat_speech
from processes import circumstances, measure

from latentsync.media.probe import require_video

RESULTS = Path(__file__).parent / "results" / "memory.json"
GOAL_MB, GOAL_RATIO = 2500.0, 1.10


def run_one(clip: Path, speech: Path, minutes: float, model: str, limit_s: float) -> dict[str, Any]:
    """Peak of one run, and the memory held at every minute of its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, sound, log = folder / "720p.mp4", folder / "speech.wav", folder / "log.jsonl"
        make_clip(clip, video, duration_s=60 * minutes)
        repeat_speech(speech, sound, duration_s=60 * minutes)
        script = str(Path(__file__).with_name("logged_run.py"))
        command = [
            sys.executable,
            script,
            *map(str, (video, sound, folder / "out.mp4", log)),
            "--model",
            model,
        ]
        ran = measure(command, limit_s=limit_s)
        if ran.exit_code != 0 and ran.seconds < limit_s:
            raise SystemExit(f"the run ended with code {ran.exit_code}:\n{ran.stderr}")
        rows = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
        per_minute = 60 * float(require_video(video).fps)
    rows = [row for row in rows if row["stage"] in ("sync", "end")]
    marks: dict[str, float] = {}
    for row in rows:
        marks.setdefault(str(int(row["frames"] // per_minute)), row["now_mb"])
    return {
        "minutes": minutes,
        "is_complete": ran.exit_code == 0,
        "frames": rows[-1]["frames"] if rows else 0,
        "seconds": round(ran.seconds, 1),
        "peak_mb": round(ran.peak_mb, 1),
        "now_mb_at_minute": marks,
        "now_mb_at_end": rows[-1]["now_mb"] if rows else None,
        "peak_mb_at_first_minute": next((r["peak_mb"] for r in rows if r["frames"] >= per_minute - 25), None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--limit-s", type=float, default=7200.0, help="a run is stopped after so long")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "circumstances": circumstances(),
        "clip": arguments.clip.name,
        "model": arguments.model,
        "runs": [],
    }
    for minutes in arguments.minutes:
        row = run_one(arguments.clip, arguments.speech, minutes, arguments.model, arguments.limit_s)
        report["runs"].append(row)
        whole = "" if row["is_complete"] else ", stopped"
        numbers = f"peak {row['peak_mb']:.0f} MB, {row['frames']} frames, {row['seconds']:.0f} s"
        print(f"{minutes:g} min: {numbers}{whole}")
        print("  held at minute " + ", ".join(f"{k}: {v:.0f}" for k, v in row["now_mb_at_minute"].items()))
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    peaks = [row["peak_mb"] for row in report["runs"]]
    report["ratio"] = round(peaks[-1] / peaks[0], 3)
    is_met = report["ratio"] <= GOAL_RATIO and max(peaks) <= GOAL_MB
    verdict = "reached" if is_met else "missed"
    print(f"longest over shortest: {report['ratio']:.3f}; goal {GOAL_RATIO:g} and {GOAL_MB:g} MB: {verdict}")
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
