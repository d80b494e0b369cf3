"""How fast `sync` is: a 720p clip from the start of the process, and what each stage costs.

    python benchmarks/speed.py CLIP SPEECH [--seconds 10] [--model MODEL]

CLIP is scaled to 1280x720 or 720x1280 first, and played back and forth if it is short. Start-up ends with the
first finished frame. The stages are then run one after the other on the same frames, each on what the one
before it left, to tell their processor time apart: in a real run they work side by side, and their seconds
overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from material import make_720p, repeat_speech
from processes import circumstances, measure

RESULTS = Path(__file__).parent / "results" / "speed.json"
GOAL_S_PER_10_S = 60.0
LIMIT_S = 1800.0
T = TypeVar("T")


def timed_run(video: Path, speech: Path, folder: Path, model: str) -> dict[str, float]:
    """Seconds from the start of the process to the first frame, and from there to the end."""
    log = folder / "log.jsonl"
    script = str(Path(__file__).with_name("logged_run.py"))
    command = [sys.executable, script, *map(str, (video, speech, folder / "out.mp4", log)), "--model", model]
    ran = measure(command, limit_s=LIMIT_S)
    if ran.exit_code != 0:
        raise SystemExit(f"the run ended with code {ran.exit_code}:\n{ran.stderr}")
    rows = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    first = next(row for row in rows if row["stage"] == "sync")
    end = rows[-1]
    after_s = end["at_s"] - first["at_s"]
    return {
        "frames": end["frames"],
        "total_s": round(ran.seconds, 2),
        "startup_s": round(first["at_s"], 2),
        "startup_processor_s": round(first["processor_s"], 2),
        "after_startup_s": round(after_s, 2),
        "frames_per_s": round(end["frames"] / after_s, 2),
        "processor_s": round(ran.processor_s, 2),
        "cores_used": round((end["processor_s"] - first["processor_s"]) / after_s, 2),
        "peak_mb": round(ran.peak_mb),
    }


class Clock:
    """Processor time of the whole process, library threads included, by stage."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        before_s = time.process_time()
        made = work()
        self.spent_s[stage] = self.spent_s.get(stage, 0.0) + time.process_time() - before_s
        return made


def stages(video: Path, speech: Path, folder: Path, model_name: str, frames: int) -> dict[str, float]:
    """Processor milliseconds per frame of every stage, over the first `frames` frames."""
    from itertools import islice

    import numpy as np

    from latentsync.audio.whisper import SpeechStates
    from latentsync.faces.align import mouth_mask
    from latentsync.faces.choice import FaceChoice
    from latentsync.faces.detect import Detector
    from latentsync.faces.landmarks import choose_landmarker
    from latentsync.faces.paste import paste
    from latentsync.faces.track import track
    from latentsync.media.probe import require_video
    from latentsync.media.read import read_frames
    from latentsync.media.sound import read_audio
    from latentsync.media.write import Encoding, write_video
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.sync import SyncRecipe
    from latentsync.runtime import choose_device, choose_dtype
    from latentsync.sync.effort import choose_sampling
    from latentsync.sync.generate import cut_crops, generate
    from latentsync.types import FrameImage
    from latentsync.weights.models import find_model, load_model

    recipe, clock = load_recipe("sync", SyncRecipe), Clock()
    info = require_video(video)
    spec = find_model(model_name, resolution=recipe.sampling.resolution)
    device = choose_device("auto")
    model = load_model(spec, device=device, dtype=choose_dtype("auto", device))
    detector, landmarker = Detector(), choose_landmarker()
    sampling = choose_sampling(recipe, spec)
    decoded = clock("decode", lambda: list(islice(read_frames(video), frames)))
    tracked = clock(
        "track",
        lambda: list(
            track(
                iter(decoded),
                choice=FaceChoice(),
                resolution=spec.resolution,
                detector=detector,
                landmarker=landmarker,
            )
        ),
    )
    cuts = clock("cut", lambda: list(cut_crops(tracked, fade_frames=3)))

    def denoised() -> list[FrameImage]:
        steps = SpeechStates(model.whisper, read_audio(speech).samples[: 16000 * 30], mode="overlap")
        generated_frames = generate(cuts, model, steps, mouth_mask(spec.resolution), sampling)
        return [
            np.asarray(generated.crop if generated.crop is not None else generated.cut.crop_u8)
            for generated in generated_frames
        ]

    crops = clock("encode speech and denoise", denoised)
    finished = clock(
        "paste",
        lambda: [
            row.frame.rgb_u8
            if row.affine is None
            else paste(row.frame.rgb_u8, crop, row.affine, region=recipe.paste.region)
            for row, crop in zip(tracked, crops, strict=True)
        ],
    )

    def encode() -> None:
        encoding = Encoding(
            codec=recipe.encoding.codec, crf=recipe.encoding.crf, preset=recipe.encoding.preset
        )
        write_video(folder / "stages.mp4", finished, fps=info.fps, like=info, encoding=encoding)

    clock("encode", encode)
    return {stage: round(1000 * spent_s / len(decoded), 1) for stage, spent_s in clock.spent_s.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--stage-frames", type=int, default=100, help="held in memory: 2.8 MB each")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    report: dict[str, object] = {
        "circumstances": circumstances(),
        "clip": arguments.clip.name,
        "seconds": arguments.seconds,
        "model": arguments.model,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, speech = folder / "720p.mp4", folder / "speech.wav"
        make_720p(arguments.clip, video, duration_s=arguments.seconds)
        repeat_speech(arguments.speech, speech, duration_s=arguments.seconds)
        numbers = timed_run(video, speech, folder, arguments.model)
        print(f"{arguments.seconds:g} s of 720p, {numbers['frames']} frames:")
        print(", ".join(f"{key} {value:g}" for key, value in numbers.items() if key != "frames"))
        goal_s = GOAL_S_PER_10_S * arguments.seconds / 10
        verdict = "reached" if numbers["after_startup_s"] <= goal_s else "missed"
        print(f"goal: at most {goal_s:g} s after start-up: {verdict}")
        by_stage = stages(video, speech, folder, arguments.model, arguments.stage_frames)
    total_ms = sum(by_stage.values())
    print("processor time per frame:")
    for stage, spent_ms in by_stage.items():
        print(f"  {stage:20}{spent_ms:8.1f} ms {100 * spent_ms / total_ms:5.1f} %")
    report |= {"run": numbers, "goal_s": goal_s, "stage_ms_per_frame": by_stage}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
