"""What the tests of all trainers check: the loss falls, and a stopped run ends as an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latentsync.events import Event, Progress, Report, ignore
from latentsync.train.log import read_log
from latentsync.weights.read import read_tensors


def tiny_run(*, samples: int, batch_samples: int, learning_rate: float) -> tuple[str, ...]:
    """Settings of a short run that logs each step and saves in the middle and at the end."""
    return (
        f"run.samples={samples}",
        f"run.batch_samples={batch_samples}",
        f"run.micro_batch_samples={batch_samples}",
        f"run.log_every_samples={batch_samples}",
        f"run.save_every_samples={samples // 2}",
        f"optimizer.learning_rate={learning_rate}",
        "optimizer.warmup_samples=0",
    )


def losses_of(output: Path, name: str) -> list[float]:
    """The loss `name` of each step of the run in `output`."""
    return [row["losses"][name] for row in read_log(output) if "losses" in row]


def check_resumed_run(train: Callable[[Path, Report], Path], whole: Path, stopped: Path) -> Path:
    """Run `train` undisturbed and stopped past its middle, compare the weights, and return them."""

    def stop(event: Event) -> None:
        is_late = isinstance(event, Progress) and event.stage == "training" and event.done > event.total / 2
        if is_late:
            raise KeyboardInterrupt

    weights = train(whole, ignore)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, stop)
    torch.manual_seed(99)  # nothing may depend on the state that a process begins with
    resumed = read_tensors(train(stopped, ignore))
    undisturbed = read_tensors(weights)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in undisturbed.items())
    assert not list(stopped.rglob("*.part"))
    return weights
