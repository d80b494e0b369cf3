"""How fast `sync` is, what each stage costs and waits for, and how busy the networks' device is.

    python -m benchmarks.sync [--networks real|random|stub] [--model-size compact|full]
        [--resolution 128|256|512] [--frame 720p|1080p] [--seconds N] [--json FILE] [--profile DIR]

`--networks stub` leaves U-Net and autoencoder out, which shows what all the rest costs at any resolution;
with `--stub-fps N` they wait like a device that makes N frames a second, which shows how busy the rest keeps
it. `random` computes in full and draws nonsense; `real` is a model with its weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import circumstances

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "sync.json"
LINES = {"720p": 720, "1080p": 1080}
MOST_LOAD = 0.5  # of the cores, before the start: above, other work is measured, too


def run_once(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the inputs, run `sync` in a process of its own, and read what it noted."""
    video, speech = folder / "clip.mp4", folder / "speech.wav"
    make = (
        "import sys; from pathlib import Path; from benchmarks.material import make_clip, repeat_speech\n"
        "clip, speech, video, sound, seconds, lines = sys.argv[1:]\n"
        "make_clip(Path(clip), Path(video), duration_s=float(seconds), short_px=int(lines))\n"
        "repeat_speech(Path(speech), Path(sound), duration_s=float(seconds))\n"
    )
    inputs = [arguments.clip, arguments.speech, video, speech, arguments.seconds, LINES[arguments.frame]]
    subprocess.run([sys.executable, "-c", make, *map(str, inputs)], check=True, cwd=ROOT)
    config, noted = folder / "config.json", folder / "noted.json"
    asked = {name: value for name, value in vars(arguments).items() if name not in ("clip", "json", "speech")}
    asked |= {"video": str(video), "speech": str(speech), "output": str(folder / "out.mp4")}
    asked["profile"] = arguments.profile and str(arguments.profile.absolute())
    config.write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.sync_run", str(config), str(noted)]
    subprocess.run(command, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
    return found


def summed_up(noted: dict[str, Any]) -> dict[str, Any]:
    """Frames a second, milliseconds of processor time a frame by stage, and how long each stage waits."""
    frames, stages = noted["frames"], noted["stages"]
    startup = {"prepare", "first face", "load"}
    own_s = sum(time["processor_s"] for time in stages.values())
    milliseconds = {
        stage: round(1000 * time["processor_s"] / frames, 2)
        for stage, time in stages.items()
        if stage not in startup
    }
    milliseconds["threads of codecs"] = round(1000 * max(0.0, noted["run_processor_s"] - own_s) / frames, 2)
    waits = {}
    for stage, time in stages.items():
        whole_s = time["work_s"] + time["input_s"] + time["output_s"]
        if stage not in startup and whole_s > 0:
            waits[stage] = {
                "input": round(time["input_s"] / whole_s, 3),
                "output": round(time["output_s"] / whole_s, 3),
            }
    after_s = noted["after_first_frame_s"]
    return {
        "frames_per_s": round((frames - 1) / after_s, 2) if after_s > 0 else None,
        "real_time_factor": round(25 * after_s / frames, 3),
        "processor_ms_per_frame": milliseconds,
        "processor_ms_per_frame_without_networks": round(
            sum(value for stage, value in milliseconds.items() if stage != "generate"), 2
        ),
        "waits": waits,
        "networks_busy": round(sum(noted["networks_s"].values()) / max(1e-9, noted["networks_span_s"]), 3),
    }


def compared(arguments: argparse.Namespace, noted: dict[str, Any]) -> dict[str, Any]:
    """FLOPs of every network, and the share of the measured peak that they reached."""
    import torch

    from benchmarks.sync_networks import count_gflops, matmul_peak_gflops, spec_of
    from latentsync.diffusion.windows import WINDOW_FRAMES
    from latentsync.runtime import choose_device, choose_dtype

    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    spec = spec_of(arguments.model_size, arguments.resolution)
    gflops = count_gflops(
        arguments.model_size, spec, window=WINDOW_FRAMES, steps=spec.steps, guided=spec.guidance > 1
    )
    torch.set_num_threads(1)
    peak = matmul_peak_gflops(device, dtype)
    busy_s = sum(noted["networks_s"].values())
    reached = gflops["frame"] * noted["frames"] / max(1e-9, busy_s)
    found: dict[str, Any] = {"gflops_per_frame": gflops, "matmul_peak_gflops": peak}
    if arguments.networks != "stub":
        found["share_of_peak"] = round(reached / peak, 3)
    return found


def printed(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    numbers, noted = found["numbers"], found["noted"]
    print(
        f"{arguments.networks} {arguments.model_size}, {arguments.resolution} px crops, {arguments.frame}, "
        f"{noted['frames']} frames: {numbers['frames_per_s']} fps after the first frame, "
        f"{noted['peak_mb']:.0f} MB at most"
    )
    print("milliseconds of processor time a frame, and shares of the time that a stage waits:")
    for stage, spent in numbers["processor_ms_per_frame"].items():
        waits = numbers["waits"].get(stage, {"input": 0, "output": 0})
        print(
            f"  {stage:18} {spent:8.2f}  for input {waits['input']:5.0%}, for the next {waits['output']:5.0%}"
        )
    without = numbers["processor_ms_per_frame_without_networks"]
    print(f"all but the networks: {without:.1f} ms, {2000 / without:.0f} fps on two cores")
    print(f"networks busy: {numbers['networks_busy']:.1%}")
    print(f"GFLOP a frame: {found['networks']}")
    starts = ", ".join(f"{name} {part['processor_s']:.2f}" for name, part in noted["startup"].items())
    for stage in ("prepare", "first face", "load"):
        starts += f", {stage} {noted['stages'].get(stage, {'processor_s': 0})['processor_s']:.2f}"
    print(f"start, seconds of processor time: {starts}; first frame after {noted['first_frame']['s']:.1f} s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", choices=["real", "random", "stub"], default="real")
    parser.add_argument("--stub-fps", type=float, default=0.0, help="of the device that stub stands for")
    parser.add_argument("--model-size", choices=["compact", "full"], default="compact")
    parser.add_argument("--resolution", type=int, choices=[128, 256, 512], default=None)
    parser.add_argument("--frame", choices=sorted(LINES), default="720p")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--clip", type=Path, default=ROOT / "examples" / "portrait.mp4")
    parser.add_argument("--speech", type=Path, default=ROOT / "examples" / "speech.wav")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--profile", type=Path, help="folder for a trace of torch's profiler")
    arguments = parser.parse_args()
    arguments.resolution = arguments.resolution or 256
    released = "latentsync-1.6" if arguments.resolution == 512 else "latentsync-1.5"
    arguments.model = "compact" if arguments.model_size == "compact" else released
    if arguments.networks == "real" and arguments.model == "compact" and arguments.resolution != 256:
        parser.error("the bundled model makes 256 px crops: add --networks random or stub")
    return arguments


def main() -> None:
    arguments = parse()
    where = circumstances()
    load, cores = float(str(where["load_1min"])), int(str(where["cores"]))
    where["is_comparable"] = load <= MOST_LOAD * cores
    with tempfile.TemporaryDirectory() as name:
        noted = run_once(arguments, Path(name))
    found = {
        "circumstances": where,
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "numbers": summed_up(noted),
        "networks": compared(arguments, noted),
        "noted": noted,
    }
    printed(arguments, found)
    if not where["is_comparable"]:
        print(f"NOT COMPARABLE by the clock: load {load:g} on {cores} cores; processor times are, roughly")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
