"""One measured run of `sync` in a process of its own, so that imports and memory are its own: see `sync.py`.

    python -m benchmarks.sync_run CONFIG.json RESULT.json

`sync.py` starts this and says in CONFIG.json what to run.
"""

from __future__ import annotations

import json
import sys
import time

STARTED_S, STARTED_PROCESSOR_S = time.perf_counter(), time.process_time()  # before anything slow is imported

from collections.abc import Callable  # noqa: E402
from contextlib import AbstractContextManager, nullcontext  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

PARTS: dict[str, dict[str, float]] = {}


class Part:
    """Notes what a part of the start took by the clock and in processor time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.since = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        PARTS[self.name] = {
            "s": round(time.perf_counter() - self.since[0], 3),
            "processor_s": round(time.process_time() - self.since[1], 3),
        }


def build(config: dict[str, Any]) -> tuple[Any, Any]:
    """The model that the configuration asks for, None for one that `sync` is to load; and its spec."""
    import torch

    from benchmarks.sync_networks import random_model, spec_of, stub_model
    from latentsync.runtime import choose_device, choose_dtype
    from latentsync.weights.models import find_model

    device = choose_device(config["device"])
    dtype = choose_dtype(config["dtype"], device)
    spec = spec_of(config["model_size"], config["resolution"])
    if config["networks"] == "stub":
        return stub_model(spec, fps=config["stub_fps"], device=torch.device("cpu")), spec
    if config["networks"] == "random":
        return random_model(spec, config["model_size"], device=device, dtype=dtype), spec
    return None, find_model(config["model"])


def timed_networks(model: Any, spent: dict[str, float]) -> None:
    """Note the seconds in which U-Net and autoencoder work; on CUDA those of the device."""
    import torch

    is_cuda = model.device.type == "cuda"
    calls_s: list[float] = []  # when calls began and ended
    events: list[tuple[str, Any, Any]] = []

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if is_cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                made = call(*given, **named)
                end.record()
                events.append((name, start, end))
                return made
            calls_s.append(time.perf_counter())
            made = call(*given, **named)
            calls_s.append(time.perf_counter())
            spent[name] = spent.get(name, 0.0) + calls_s[-1] - calls_s[-2]
            return made

        return called

    model.unet.forward = timed("unet", model.unet.forward)
    object.__setattr__(model.vae, "encode", timed("vae_encode", model.vae.encode))
    object.__setattr__(model.vae, "decode", timed("vae_decode", model.vae.decode))

    def gather() -> None:
        if is_cuda:
            torch.cuda.synchronize()
        for name, start, end in events:
            spent[name] = spent.get(name, 0.0) + start.elapsed_time(end) / 1000
        span_s[:] = (
            [calls_s[-1] - calls_s[0]] if calls_s else [events[0][1].elapsed_time(events[-1][2]) / 1000]
        )

    spent_gather[:] = [gather]


spent_gather: list[Callable[[], None]] = []
span_s: list[float] = []  # from the first call of a network to the end of the last


def profiled(folder: str | None) -> AbstractContextManager[Any]:
    """torch's profiler, whose trace goes into the folder."""
    if folder is None:
        return nullcontext()
    from torch.profiler import profile, tensorboard_trace_handler

    return profile(on_trace_ready=tensorboard_trace_handler(folder))


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Part("import torch"):
        import torch
    with Part("import latentsync.sync.run"):
        import latentsync.sync.run as sync_run
    from benchmarks.processes import memory_mb
    from latentsync.events import Event, Progress
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.sync import SyncRecipe

    first_frame: dict[str, float] = {}
    spent: dict[str, float] = {}

    def report(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "sync" and not first_frame:
            first_frame["s"] = time.perf_counter() - STARTED_S
            first_frame["processor_s"] = time.process_time() - STARTED_PROCESSOR_S

    model, spec = build(config)
    if model is None:  # let `sync` load it, and note what its networks take from then on
        loads = sync_run.load_model

        def load(*given: Any, **named: Any) -> Any:
            made = loads(*given, **named)
            timed_networks(made, spent)
            return made

        sync_run.load_model = load
    else:
        timed_networks(model, spent)
    if config["networks"] == "stub" and config["stub_fps"] > 0:  # it stands for a device of its own
        sync_run.queue_frames = lambda sampling, *_: 2 * sampling.window_frames
    job = sync_run.SyncJob(
        video=Path(config["video"]),
        speech=Path(config["speech"]),
        output=Path(config["output"]),
        model=config["model"],
        device=config["device"],
        dtype=config["dtype"],
        force=True,
        keep_fps=config.get("keep_fps", False),
    )
    before_s, before_processor_s = time.perf_counter(), time.process_time()
    with profiled(config["profile"]):
        result = sync_run.run(
            job, load_recipe("sync", SyncRecipe, overrides=config["set"]), report, model=model
        )
    ended_s, ended_processor_s = time.perf_counter(), time.process_time()
    for gather in spent_gather:
        gather()
    after_s = ended_s - STARTED_S - first_frame["s"]
    Path(sys.argv[2]).write_text(
        json.dumps(
            {
                "frames": result.frames,
                "run_s": round(ended_s - before_s, 3),
                "run_processor_s": round(ended_processor_s - before_processor_s, 3),
                "first_frame": {name: round(value, 3) for name, value in first_frame.items()},
                "after_first_frame_s": round(after_s, 3),
                "startup": PARTS,
                "stages": {
                    stage: {name: getattr(time_of, name) for name in time_of.__slots__}
                    for stage, time_of in result.stages.items()
                },
                "networks_s": {name: round(value, 3) for name, value in spent.items()},
                "networks_span_s": round(sum(span_s), 3),
                "peak_mb": round(memory_mb()[1], 1),
                "device_peak_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)
                if torch.cuda.is_available()
                else None,
                "resolution": spec.resolution,
                "threads": {"torch": torch.get_num_threads()},
            }
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
