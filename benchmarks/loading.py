"""Peak memory of importing and loading the full-size U-Net, with stand-in weights in the released layout.

    python benchmarks/loading.py SHAPES WEIGHTS [--folder DIR]

SHAPES lists the keys and shapes of the released file (JSON), WEIGHTS is the Python file that makes stand-ins.
About 13 GB of disk and 6 GB of memory are used; every step runs in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import circumstances, memory_mb

from latentsync.recipe.loading import load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

RELEASED_UNET = load_recipe("stage2", UNetTrainingRecipe).network

RESULTS = Path(__file__).parent / "results" / "loading.json"
GOAL_RATIO = 1.3
GOAL_ERROR = 1e-4
SALT = "golden-a"


def make(shapes: Path, weights: Path, target: Path) -> dict[str, Any]:
    """Write the file as the reference does: {"global_step", "state_dict"}, fp32."""
    import torch

    spec = importlib.util.spec_from_file_location("synthetic_weights", weights)
    assert spec is not None and spec.loader is not None
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    stated = json.loads(shapes.read_text(encoding="utf-8"))["state_dict"]
    state = {key: synthetic.synthetic_tensor(key, tuple(shape), SALT) for key, shape in stated.items()}
    for key in [key for key in state if "attention_blocks.1.pos_encoder" in key]:
        state[key] = state[key.replace("attention_blocks.1", "attention_blocks.0")].clone()
    torch.save({"global_step": 1, "state_dict": state}, target)
    return {"keys": len(state), "size_bytes": target.stat().st_size}


def load(path: Path, dtype: str) -> dict[str, Any]:
    """Load the U-Net and read every number once; the growth is that of the resident set at its peak."""
    from latentsync.runtime import DTYPES
    from latentsync.weights.released import load_unet

    unet: Any = None

    def work() -> None:
        nonlocal unet
        unet = load_unet(path, dtype=DTYPES[dtype])
        for tensor in unet.state_dict().values():
            tensor.sum()

    measured = grown(work)
    numbers = sum(tensor.numel() for tensor in unet.state_dict().values())
    return {**measured, "bf16_mb": round(2 * numbers / 1e6, 1)}


def convert(path: Path, dtype: str, target: Path) -> dict[str, Any]:
    from latentsync.weights.convert import import_file

    result: Any = None

    def work() -> None:
        nonlocal result
        result = import_file(path, dtype=dtype, output=target)  # type: ignore[arg-type]

    measured = grown(work)
    counts = {"renamed": len(result.renamed), "dropped": len(result.dropped), "keys": result.keys}
    return {**measured, **counts, "version": result.version, "size_bytes": result.size_bytes}


def forward(path: Path, target: Path) -> dict[str, Any]:
    """One frame of 8 x 8 latents through the network in fp32."""
    import torch

    from latentsync.weights.released import load_unet

    drawn = torch.Generator().manual_seed(1247)
    sample = torch.randn(1, 13, 1, 8, 8, generator=drawn)
    audio = torch.randn(1, 50, 384, generator=drawn)
    with torch.no_grad():
        torch.save(load_unet(path)(sample, torch.tensor([501]), audio), target)
    return {}


def grown(work: Callable[[], None]) -> dict[str, Any]:
    """By how much the peak of this process rises over what it holds with all libraries loaded."""
    from latentsync.models.unet import build_unet

    build_unet(RELEASED_UNET.replaced(block_out_channels=(32,), attention_levels=(True,)))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    before_mb, started = memory_mb()[0], time.monotonic()
    work()
    return {
        "growth_mb": round(memory_mb()[1] - before_mb, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def apart(step: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{step} failed:\n{done.stderr}")
    print(step, *arguments[1:], done.stdout.strip(), flush=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(shapes: Path, weights: Path, folder: Path) -> dict[str, Any]:
    import torch

    released, ours, half = (
        folder / name for name in ("latentsync_unet.pt", "fp32.safetensors", "bf16.safetensors")
    )
    report: dict[str, Any] = {"circumstances": circumstances()}
    report["made"] = apart("make", shapes, weights, released)
    report["import_fp32"] = apart("convert", released, "fp32", ours)
    report["import_bf16"] = apart("convert", released, "bf16", half)
    report["load_bf16"] = {}
    for name, path in (("torch_fp32", released), ("safetensors_fp32", ours), ("safetensors_bf16", half)):
        measured = apart("load", path, "bf16")
        measured["ratio"] = round(measured["growth_mb"] / measured["bf16_mb"], 3)
        report["load_bf16"][name] = measured
    outputs = []
    for path in (released, ours):
        apart("forward", path, folder / f"{path.name}.out")
        outputs.append(torch.load(folder / f"{path.name}.out", weights_only=True))
    report["forward_error"] = float((outputs[0] - outputs[1]).norm() / outputs[0].norm())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, help="where the large files lie for a while")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--step", choices=("make", "convert", "load", "forward"))
    arguments = parser.parse_args()
    if arguments.step is not None:
        first, *rest = arguments.paths
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "make": lambda: make(first, *rest),
            "convert": lambda: convert(first, str(rest[0]), rest[1]),
            "load": lambda: load(first, str(rest[0])),
            "forward": lambda: forward(first, *rest),
        }
        print(json.dumps(steps[arguments.step]()))
        return
    shapes, weights = arguments.paths
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        report = run(shapes, weights, Path(name))
    ratios = {name: row["ratio"] for name, row in report["load_bf16"].items()}
    is_met = max(ratios.values()) <= GOAL_RATIO and report["forward_error"] <= GOAL_ERROR
    print(
        f"peak over bf16 size: {ratios}, goal {GOAL_RATIO}; forward differs by {report['forward_error']:.1e}"
    )
    print("reached" if is_met else "missed")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
