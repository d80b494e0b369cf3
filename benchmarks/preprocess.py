"""Runs `latentsync preprocess` over folders of raw clips: speed, memory of a worker, share of time by step.

    python benchmarks/preprocess.py MEDIA_DIR/train --work DIR [--workers 2] [--folders news grid_s1 assorted]
    python benchmarks/preprocess.py MEDIA_DIR/train --work DIR2 --workers 1 2 --sample 60

Can be stopped and started again: every run resumes, and seconds are taken from its log, from the
spans in which sources were worked on. With several --workers each gets a run of its own over the same clips,
and the efficiency is the speed for each worker over that of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from processes import circumstances, latentsync_command, memory_mb

from latentsync.errors import MediaError
from latentsync.media.folder import find_videos
from latentsync.media.probe import probe
from latentsync.workers.log import read_past

RESULTS = Path(__file__).parent / "results" / "preprocess.json"
FOLDERS = ("news", "grid_s1", "assorted")
POLL_S = 1.0


def link(train: Path, folders: Sequence[str], raw: Path, *, sample: int | None) -> None:
    """Make a raw folder of links to the clips of `folders`, or to `sample` of them, evenly spread."""
    found = [
        (folder, name, path)
        for folder in folders
        for name, path in find_videos(train / folder).videos.items()
    ]
    if sample is not None:
        found = [found[index * len(found) // sample] for index in range(min(sample, len(found)))]
    for folder, name, path in found:
        target = raw / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_symlink():
            target.symlink_to(path.absolute())


def command(raw: Path, out: Path, *flags: str) -> list[str]:
    return [latentsync_command(), "preprocess", str(raw), str(out), *flags]


def children(pid: int) -> Iterable[int]:
    """All processes below `pid`."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return
    for child in map(int, text.split()):
        yield child
        yield from children(child)


def run_watched(line: list[str]) -> tuple[int, float, float]:
    """Run a command and show its progress.

    Returns:
        Exit code, peak of its largest worker in MB, processor seconds.
    """
    peak_mb, before_s = 0.0, children_s()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            peak_mb = max([peak_mb, *(memory_mb(child)[1] for child in children(process.pid))])
            time.sleep(POLL_S)
    except KeyboardInterrupt:  # it was interrupted, too
        process.wait()
    return process.returncode, peak_mb, children_s() - before_s


def children_s() -> float:
    """Processor time of the processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def worked_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by at least one span."""
    total_s, until_s = 0.0, 0.0
    for start_s, end_s in sorted(spans):
        total_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return total_s


def video_s(raw: Path) -> float:
    """Seconds of video in the raw folder; files that cannot be read count as none."""
    total_s = 0.0
    for path in find_videos(raw).videos.values():
        try:
            info = probe(path)
        except MediaError:
            continue
        total_s += info.video.duration_s if info.video else 0.0
    return total_s


def measured(raw: Path, out: Path, *, workers: int, used: tuple[float, float]) -> dict[str, Any]:
    """The numbers of one finished run, from its log."""
    settled = [entry.values for entry in read_past(out / "log").settled.values()]
    timed = [entry for entry in settled if "took_s" in entry]
    steps: Counter[str] = Counter()
    for entry in timed:
        steps.update(entry["step_s"])
    outcomes = Counter(
        decision["reason"] or decision["outcome"] for entry in settled for decision in entry["decisions"]
    )
    seconds = worked_s((entry["at_s"] - entry["took_s"], entry["at_s"]) for entry in timed)
    filmed_s = video_s(raw)
    return {
        "workers": workers,
        "sources": len(settled),
        "video_s": round(filmed_s, 1),
        "seconds": round(seconds, 1),
        "clips_per_s": round(len(timed) / seconds, 3),
        "video_s_per_s_and_core": round(filmed_s / seconds / workers, 3),
        "processor_s": round(used[1], 1),
        "video_s_per_processor_s": round(filmed_s / used[1], 3),
        "peak_mb_of_a_worker": round(used[0], 1),
        "share_by_step": {name: round(spent / sum(steps.values()), 4) for name, spent in steps.most_common()},
        "outside_steps": round(1 - sum(steps.values()) / sum(entry["took_s"] for entry in timed), 4),
        "outcomes": dict(outcomes.most_common()),
        "out_bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }


def so_far(note: Path, peak_mb: float, processor_s: float) -> tuple[float, float]:
    """Peak and processor time over this run and those that went over the clips before it."""
    if note.exists():
        before = json.loads(note.read_text())
        peak_mb, processor_s = max(peak_mb, before["peak_mb"]), processor_s + before["processor_s"]
    note.write_text(json.dumps({"peak_mb": peak_mb, "processor_s": processor_s}))
    return peak_mb, processor_s


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    raw = arguments.work / "raw"
    link(arguments.train, arguments.folders, raw, sample=arguments.sample)
    rows: list[dict[str, Any]] = []
    settings = [word for value in arguments.settings for word in ("--set", value)]
    before = circumstances()
    for workers in arguments.workers:
        out = arguments.work / f"out-{workers}"
        code, *used = run_watched(command(raw, out, "--workers", str(workers), *settings))
        used = so_far(arguments.work / f"used-{workers}.json", *used)
        if code:
            print(f"stopped with exit code {code}; start again to go on", file=sys.stderr)
            return code
        rows.append(measured(raw, out, workers=workers, used=used))
        speed = rows[-1]["clips_per_s"] / workers
        rows[-1]["efficiency"] = round(speed / (rows[0]["clips_per_s"] / rows[0]["workers"]), 3)
        print(json.dumps(rows[-1], indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    text = json.dumps({"circumstances": before, "folders": arguments.folders, "runs": rows}, indent=2)
    arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
