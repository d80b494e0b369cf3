"""What one training step of the U-Net takes, what the reference's sizes need, and which decoder is faster.

    python benchmarks/training.py DATA [--recipe compact/stage1] [--steps 20] [--rounds 3] [--device cpu|cuda]
    python benchmarks/training.py --full-size [--recipes stage1 stage2 ...] [--steps 5]
    python benchmarks/training.py DATA --decoders [--clips 100]

DATA is an OUT of `latentsync preprocess`. The first trains with 0 and with 1 process that reads data, in
turn, by the very loop of `latentsync train-unet` with a clock on its batches; nothing is kept. The second
makes random networks of the released sizes and batches of noise: it needs no file and no data, but a GPU.
The third reads windows of 16 frames as one sample does: a clip is opened, and two windows are decoded, on
one thread. Each puts its own table into the results and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from processes import circumstances, memory_mb
from training_sizes import PUBLISHED_GB, TINY, train_full_size

from latentsync.errors import LatentSyncError, MemoryShortage
from latentsync.events import ignore
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import choose_device
from latentsync.train import loop
from latentsync.train.loop import read_batches
from latentsync.train.setup import TrainingJob
from latentsync.train.unet.run import run

RESULTS = Path(__file__).parent / "results" / "training.json"
WARM_STEPS = 2  # before the clock counts: the first steps allocate memory and fill caches
WINDOW_FRAMES = 16


class Enough(Exception):
    """All steps that were to be measured are done."""


@dataclass(slots=True)
class Clock:
    """Stands between the training loop and its batches.

    steps   to be measured, after `WARM_STEPS` others
    asked   seconds by the clock, and of the processor, when the loop asked for each micro-batch
    waited  the same, of what it then waited
    """

    device: torch.device
    steps: int
    micro_batches: int
    asked: list[tuple[float, float]] = field(default_factory=list)
    waited: list[tuple[float, float]] = field(default_factory=list)

    def watch(self, read: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same batches as from `read`, until there were enough."""

        def read_until_enough(*given: Any, **named: Any) -> Iterator[Any]:
            batches = read(*given, **named)
            try:
                for _ in range((WARM_STEPS + self.steps) * self.micro_batches):
                    before = self._note()
                    batch = next(batches)
                    after = now()
                    self.waited.append((after[0] - before[0], after[1] - before[1]))
                    yield batch
                self._note()
                raise Enough
            finally:
                batches.close()  # type: ignore[attr-defined]

        return read_until_enough

    def rows(self) -> list[dict[str, float]]:
        """Seconds of each measured step, and those of them that went into waiting."""
        found = []
        for first in range(WARM_STEPS * self.micro_batches, len(self.waited), self.micro_batches):
            last = first + self.micro_batches
            (start_s, start_cpu_s), (end_s, end_cpu_s) = self.asked[first], self.asked[last]
            waited_s, waited_cpu_s = (sum(pair) for pair in zip(*self.waited[first:last], strict=True))
            found.append(
                {
                    "s": end_s - start_s,
                    "waited_s": waited_s,
                    "processor_s": end_cpu_s - start_cpu_s,
                    "waited_processor_s": waited_cpu_s,
                }
            )
        return found

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _note(self) -> tuple[float, float]:
        if self.is_cuda:
            torch.cuda.synchronize()
        self.asked.append(now())
        return self.asked[-1]


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def clocked(train: Callable[[], object], clock: Clock) -> dict[str, float]:
    """Train until the clock has seen enough; the medians of its steps, and the peak of memory."""
    if clock.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    try:
        with patch.object(loop, "read_batches", clock.watch(read_batches)):
            train()
        raise SystemExit("the recipe ends before enough steps were measured: raise run.samples")
    except Enough:
        pass
    rows = clock.rows()
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    peak = torch.cuda.max_memory_allocated() / 1e6 if clock.is_cuda else memory_mb()[1]
    share = sum(row["waited_s"] for row in rows) / sum(row["s"] for row in rows)
    return {**median, "waiting_share": share, "peak_mb": peak}


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on DATA with 0 and with 1 reader, in turn; medians over the rounds, and ratios within them."""
    recipe = load_recipe(arguments.recipe, UNetTrainingRecipe, overrides=arguments.settings)
    table, device = recipe.run, choose_device(arguments.device)
    rounds: list[dict[int, dict[str, float]]] = []
    for number in range(arguments.rounds):
        rounds.append({})
        for workers in (0, 1) if number % 2 == 0 else (1, 0):  # a drift of the machine's speed cancels out
            with tempfile.TemporaryDirectory() as output:
                job = TrainingJob(
                    data=arguments.data,
                    output=Path(output),
                    device=arguments.device,
                    workers=workers,
                    decoded_cache=arguments.decoded_cache,
                )
                clock = Clock(device, arguments.steps, table.batch_samples // table.micro_batch_samples)
                rounds[-1][workers] = clocked(partial(run, job, recipe, ignore), clock)
            print(f"round {number + 1}, {workers} readers:", one_line(rounds[-1][workers]), flush=True)
    by_readers = {
        str(workers): {
            name: statistics.median(found[workers][name] for found in rounds) for name in rounds[0][workers]
        }
        for workers in (0, 1)
    }
    for row in by_readers.values():
        row["s_per_sample"] = row["s"] / table.batch_samples
    bare, ahead = (by_readers[name] for name in ("0", "1"))
    return {
        "recipe": arguments.recipe,
        "set": arguments.settings,
        "device": str(device),
        "samples_per_step": table.batch_samples,
        "micro_batch_samples": table.micro_batch_samples,
        "frames": recipe.windows.frames,
        "resolution": recipe.windows.resolution,
        "decoded_cache": arguments.decoded_cache,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "by_readers": by_readers,
        "step_1_over_0": {
            clock: statistics.median(found[1][name] / found[0][name] for found in rounds)
            for clock, name in (("by_the_clock", "s"), ("of_the_processor", "processor_s"))
        },
        "loading_share_of_processor": bare["waited_processor_s"] / bare["processor_s"],
        "loading_hidden": 1 - ahead["waited_s"] / bare["waited_s"],
    }


def measure_full_size(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process for each recipe, so that none is in the memory of another."""
    rows, is_cuda = {}, choose_device(arguments.device).type == "cuda"
    for name in arguments.recipes:
        command = [sys.executable, __file__, "--full-size", "--one", name, "--steps", str(arguments.steps)]
        command += ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
        command += [word for value in arguments.settings for word in ("--set", value)]
        done = subprocess.run([*command, "--allow-cpu"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        rows[name] = json.loads(done.stdout)
        print(name, rows[name], flush=True)
    return {
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "is_tiny": arguments.tiny,
        "set": arguments.settings,
        "steps": arguments.steps,
        "by_recipe": rows,
    }


def measure_one_size(arguments: argparse.Namespace) -> dict[str, Any]:
    """One recipe, one sample a step, in this process."""
    changes = ["run.batch_samples=1", "run.micro_batch_samples=1", *(TINY if arguments.tiny else ())]
    recipe = load_recipe(arguments.one, UNetTrainingRecipe, overrides=[*changes, *arguments.settings])
    row: dict[str, Any] = {
        "resolution": recipe.windows.resolution,
        "published_gb": PUBLISHED_GB.get(arguments.one),
    }
    device = choose_device(arguments.device)
    try:
        with tempfile.TemporaryDirectory() as output:
            found = clocked(
                lambda: train_full_size(recipe, device, Path(output), is_tiny=arguments.tiny),
                Clock(device, arguments.steps, 1),
            )
    except MemoryShortage as error:
        return {**row, "failed": str(error)}
    reserved = {"reserved_gb": torch.cuda.max_memory_reserved() / 1e9} if device.type == "cuda" else {}
    return {**row, "s_per_step": found["s"], "peak_gb": found["peak_mb"] / 1e3, **reserved}


def measure_decoders(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two windows of each of some clips by PyAV and by decord, in turn; then again, the index being known."""
    import numpy as np

    from latentsync.manifest import read_manifest

    clips = [clip for clip in read_manifest(arguments.data) if clip.frames >= 2 * WINDOW_FRAMES]
    clips = [
        clips[index * len(clips) // arguments.clips] for index in range(min(arguments.clips, len(clips)))
    ]
    random = np.random.default_rng(1247)
    rows: list[dict[str, tuple[float, float]]] = []
    differences = []
    for number, clip in enumerate(clips):
        clip.path.read_bytes()  # so that neither waits for the disk
        starts = random.integers(0, clip.frames - WINDOW_FRAMES + 1, 2).tolist()
        windows = [range(start, start + WINDOW_FRAMES) for start in starts]
        names = ("pyav", "decord") if number % 2 == 0 else ("decord", "pyav")
        rows.append({})
        for visit in ("first", "again"):
            seen: dict[str, Any] = {}
            for name in names:
                started = now()
                seen[name] = DECODERS[name](clip.path, windows)
                ended = now()
                rows[-1][f"{name}_{visit}"] = (ended[0] - started[0], ended[1] - started[1])
        differences.append(float(np.abs(seen["pyav"].astype(int) - seen["decord"]).mean()))
    result: dict[str, Any] = {"clips": len(rows), "frames": WINDOW_FRAMES, "windows_of_a_clip": 2}
    result["mean_difference_levels"] = statistics.fmean(differences)
    for visit in ("first", "again"):
        result[visit] = {
            clock: compare(
                [row[f"pyav_{visit}"][index] / 2 for row in rows],
                [row[f"decord_{visit}"][index] / 2 for row in rows],
            )
            for index, clock in enumerate(("by_the_clock", "of_the_processor"))
        }
    print(json.dumps(result, indent=1))
    return result


def compare(pyav_s: Sequence[float], decord_s: Sequence[float]) -> dict[str, Any]:
    """Medians for a window, and of the ratio for each clip, with the range of its middle half."""
    lower, middle, upper = statistics.quantiles(
        [ours / theirs for ours, theirs in zip(pyav_s, decord_s, strict=True)], n=4
    )
    return {
        "pyav_ms": 1e3 * statistics.median(pyav_s),
        "decord_ms": 1e3 * statistics.median(decord_s),
        "pyav_over_decord": middle,
        "middle_half": [lower, upper],
    }


def read_with_pyav(path: Path, windows: Sequence[range]) -> Any:
    """As our training reads."""
    import numpy as np

    from latentsync.media.read import read_window

    return np.stack([read_window(path, window) for window in windows])


def read_with_decord(path: Path, windows: Sequence[range]) -> Any:
    """As our training reads with `--decoder decord`: a reader for each file, and a batch for each window."""
    import numpy as np

    from latentsync.media.decord_windows import read_window_by_decord

    return np.stack([read_window_by_decord(path, window) for window in windows])


DECODERS: dict[str, Callable[[Path, Sequence[range]], Any]] = {
    "pyav": read_with_pyav,
    "decord": read_with_decord,
}


def one_line(row: dict[str, float]) -> str:
    return (
        f"{row['s']:.2f} s a step, {row['waiting_share']:.1%} of it waiting for data;"
        f" {row['processor_s']:.2f} s of the processor; {row['peak_mb']:.0f} MB"
    )


def write(path: Path, table: str, result: dict[str, Any]) -> None:
    """Put `result` into the results, beside the tables of earlier runs."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report[table] = {"circumstances": {**circumstances(), "torch": torch.__version__}, **rounded(result)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Every number to four digits."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--recipe", default="compact/stage1")
    parser.add_argument("--steps", type=int, default=20, help="measured in each run, after two others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--decoded-cache", choices=("auto", "yes", "no"), default="auto")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--recipes", nargs="+", default=list(PUBLISHED_GB))
    parser.add_argument("--allow-cpu", action="store_true", help="--full-size where there is no GPU")
    parser.add_argument("--tiny", action="store_true", help="small stand-ins, to try --full-size itself")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--clips", type=int, default=100, help="of --decoders")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.full_size and arguments.data is None:
        parser.error("give DATA, an OUT of `latentsync preprocess`, or --full-size")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.full_size and choose_device(arguments.device).type == "cpu" and not arguments.allow_cpu:
        raise SystemExit(
            "--full-size needs a GPU: on a CPU it takes 20 GB or more and many minutes a step;"
            " --allow-cpu does it all the same, --tiny --allow-cpu tries the script"
        )
    try:
        if arguments.one:
            print(json.dumps(measure_one_size(arguments)))
        elif arguments.full_size:
            write(arguments.json, "full_size", measure_full_size(arguments))
        elif arguments.decoders:
            write(arguments.json, "decoders", measure_decoders(arguments))
        else:
            table = "step_without_cache" if arguments.decoded_cache == "no" else "step"
            write(arguments.json, table, measure_steps(arguments))
    except LatentSyncError as error:
        raise SystemExit(f"error: {error}\nhint:  {error.hint}") from error


if __name__ == "__main__":
    main()
