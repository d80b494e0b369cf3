"""Kills `latentsync preprocess` with SIGKILL at random moments and compares the end with an undisturbed run.

    python benchmarks/preprocess_restart.py MEDIA_DIR/train --work DIR [--sample 30] [--kills 5] [--seed 1]

Clips, manifest and decisions have to be equal byte for byte; the exit code is 1 if they are not. DIR must be
new.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from preprocess import FOLDERS, command, link
from processes import circumstances

RESULTS = Path(__file__).parent / "results" / "preprocess_restart.json"


def lines_in(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "log").glob("*.jsonl"))


def run_and_kill(line: list[str], out: Path, *, lines: int, seconds: float) -> dict[str, object]:
    """Start a run and kill it `seconds` after its log has grown by `lines`; it may end before."""
    before, started = lines_in(out), time.monotonic()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while process.poll() is None and lines_in(out) < before + lines:
        time.sleep(0.02)
    time.sleep(seconds)
    process.kill()
    process.wait()
    return {
        "after_s": round(time.monotonic() - started, 2),
        "finished": lines_in(out),
        "code": process.returncode,
    }


def tree(out: Path) -> dict[str, bytes]:
    """All files but the logs, which tell times."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.parent.name != "log"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS))
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    raw, whole, killed = (arguments.work / name for name in ("raw", "whole", "killed"))
    link(arguments.train, arguments.folders, raw, sample=arguments.sample)
    settings = [word for value in arguments.settings for word in ("--set", value)]
    subprocess.run(command(raw, whole, *settings), check=True)
    draw = random.Random(arguments.seed)
    moments = []
    for _ in range(arguments.kills):
        lines = draw.randint(1, max(1, arguments.sample // (arguments.kills + 1)))
        moments.append(
            run_and_kill(command(raw, killed, *settings), killed, lines=lines, seconds=draw.uniform(0, 3))
        )
        print(moments[-1])
    subprocess.run(command(raw, killed, *settings), check=True)
    expected, got = tree(whole), tree(killed)
    differing = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    result = {
        "circumstances": circumstances(),
        "sources": arguments.sample,
        "kills": moments,
        "files": len(expected),
        "differing": differing,
    }
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{len(expected)} files, {len(differing)} differ")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
