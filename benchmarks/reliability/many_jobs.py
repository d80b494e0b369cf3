"""Memory of one process that makes many videos with one loaded model, as a server does.

    python benchmarks/reliability/many_jobs.py VIDEO SPEECH [--jobs 200] [--speech-s 0.4] [--json FILE]

Every job is a whole `sync` of the first `--speech-s` seconds: files are opened, the face is found and
followed, a new file is written. Memory, open files and threads are read after each job. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances, memory_mb

from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.sync.job import SyncJob
from latentsync.sync.run import run
from latentsync.weights.models import find_model, load_model

RESULTS = Path(__file__).parents[1] / "results" / "many_jobs.json"
SETTLED = 20  # jobs after which memory should not grow


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--speech-s", type=float, default=0.4, help="of the video that each job makes")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    recipe = load_recipe("sync", SyncRecipe, overrides=["sampling.effort=draft"])
    spec = find_model("compact", resolution=recipe.sampling.resolution)
    model = load_model(spec, device=torch.device("cpu"), dtype=torch.float32)
    rows: list[dict[str, float]] = []
    started_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, arguments.jobs + 1):
            job = SyncJob(
                video=arguments.video,
                speech=arguments.speech,
                output=Path(folder) / f"{number}.mp4",
                duration="video",
                end_s=arguments.speech_s,
            )
            run(job, recipe, lambda event: None, model=model)
            job.output.unlink()
            row = {"job": number, "mb": round(memory_mb()[0], 1), "files": len(os.listdir("/proc/self/fd"))}
            rows.append({**row, "threads": threading.active_count()})
            print(rows[-1], flush=True)
    result: dict[str, Any] = {
        "circumstances": circumstances(),
        "jobs": len(rows),
        "processor_s": round(time.process_time() - started_s, 1),
        "mb_after": {
            str(row["job"]): row["mb"] for row in rows if row["job"] in (1, SETTLED) or row["job"] % 50 == 0
        },
        "growth_mb": round(rows[-1]["mb"] - rows[min(SETTLED, len(rows)) - 1]["mb"], 1),
        "most_files": max(row["files"] for row in rows),
        "threads_at_the_end": rows[-1]["threads"],
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
