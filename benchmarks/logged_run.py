"""One run of `sync` in a process of its own, which notes time and memory as frames are finished.

    python benchmarks/logged_run.py VIDEO SPEECH OUTPUT LOG [--model MODEL]

LOG gets one JSON object a line, about one for each second of the output: stage, frames, at_s, processor_s,
now_mb, peak_mb. It can be read when the run is stopped half way. `memory.py` starts this.
"""

from __future__ import annotations

import argparse
import json
import time

STARTED_S = time.monotonic()  # before anything slow is imported: that is part of the start-up

from pathlib import Path  # noqa: E402
from typing import TextIO  # noqa: E402

from processes import memory_mb  # noqa: E402

from latentsync.events import Event, Progress  # noqa: E402
from latentsync.recipe.loading import load_recipe  # noqa: E402
from latentsync.recipe.sync import SyncRecipe  # noqa: E402
from latentsync.sync.run import SyncJob, run  # noqa: E402

EVERY_FRAMES = 25


def note(log: TextIO, stage: str, frames: int) -> None:
    now_mb, peak_mb = memory_mb()
    row = {
        "stage": stage,
        "frames": frames,
        "at_s": round(time.monotonic() - STARTED_S, 3),
        "processor_s": round(time.process_time(), 3),
        "now_mb": round(now_mb, 1),
        "peak_mb": round(peak_mb, 1),
    }
    log.write(json.dumps(row) + "\n")
    log.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("video", "speech", "output", "log"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--model", default="compact")
    arguments = parser.parse_args()
    job = SyncJob(
        video=arguments.video,
        speech=arguments.speech,
        output=arguments.output,
        model=arguments.model,
        force=True,
    )
    with arguments.log.open("w", encoding="utf-8") as log:

        def report(event: Event) -> None:
            if isinstance(event, Progress) and (event.stage == "loading" or event.done % EVERY_FRAMES == 1):
                note(log, event.stage, event.done)

        result = run(job, load_recipe("sync", SyncRecipe), report)
        note(log, "end", result.frames)


if __name__ == "__main__":
    main()
