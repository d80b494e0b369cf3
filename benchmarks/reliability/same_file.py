"""Whether the same command gives the same file on a busy machine, byte for byte.

    python benchmarks/reliability/same_file.py VIDEO SPEECH [--runs 10] [--writes 40] [--seconds 1]

Whole runs of `latentsync sync` on the first seconds of VIDEO, and the encoder alone on 25 frames of it, each
in a process of its own, while infinite loops keep the cores busy. glibc fills new memory with another byte
in each process (MALLOC_PERTURB_): what memory was used for before is what differs most on a busy machine.
The exit code is 1 if the files of one kind differ. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances, latentsync_command

RESULTS = Path(__file__).parents[1] / "results" / "same_file.json"
FRAMES = 25
SPIN = "while True: pass"


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep the machine busy with this many infinite loops."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def write_only(video: Path, out: Path) -> None:
    """Encode the first frames of a video, as `sync` does."""
    from latentsync.media.read import read_frames
    from latentsync.media.write import write_video

    write_video(out, (frame.rgb_u8 for frame in islice(read_frames(video), FRAMES)))


def digests(line: list[str], out: Path, runs: int) -> Counter[str]:
    """Run a command that writes `out` so often; count the files that come out."""
    found: Counter[str] = Counter()
    for run in range(runs):
        environment = {**os.environ, "MALLOC_PERTURB_": str(37 * run % 256)}
        subprocess.run(line, check=True, env=environment, capture_output=True)
        found[hashlib.sha256(out.read_bytes()).hexdigest()[:12]] += 1
        print(f"{line[1]}: run {run + 1}, {len(found)} distinct", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--runs", type=int, default=10, help="of the whole command")
    parser.add_argument("--writes", type=int, default=40, help="of the encoder alone")
    parser.add_argument("--seconds", type=float, default=1.0, help="of VIDEO that each run uses")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--loops", type=int, default=cores, help="that keep the machine busy")
    parser.add_argument("--flags", default="--effort draft", help="more flags of the command, in one string")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--write-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write_only is not None:
        write_only(arguments.video, arguments.write_only)
        return 0
    result: dict[str, Any] = {"circumstances": circumstances(), "busy_loops": arguments.loops}
    result |= {"flags": arguments.flags, "seconds_of_video": arguments.seconds}
    inputs = [str(arguments.video), str(arguments.speech)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, busy(arguments.loops):
        out = Path(folder) / "out.mp4"
        span = ["--duration", "video", "--end", str(arguments.seconds), *arguments.flags.split()]
        sync = [latentsync_command(), "sync", *inputs, "-o", str(out), "--force", "--quiet", *span]
        write = [sys.executable, __file__, *inputs, "--write-only", str(out)]
        for name, line, runs in (("writes", write, arguments.writes), ("runs", sync, arguments.runs)):
            found = digests(line, out, runs)
            result[name] = {"tried": runs, "distinct": len(found), "files": dict(found)}
    result["seconds"] = round(time.monotonic() - started, 1)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(any(result[name]["distinct"] > 1 for name in ("writes", "runs")))


if __name__ == "__main__":
    sys.exit(main())
