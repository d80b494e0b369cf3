"""The one training loop: samples in order, losses, optimizer, EMA, log, validation, checkpoints.

It does not know what is trained. Sample k of a run is a pure function of k, so the data, and with it the
result, depend neither on the number of processes, nor on accumulation, nor on where a run was stopped and
resumed.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from latentsync.errors import LatentSyncError, RecipeError
from latentsync.events import Measured, Note, Progress, Report
from latentsync.recipe.training import OptimizerTable, RunTable, TrainingRecipe
from latentsync.runtime import Seeds
from latentsync.train.checkpoint import (
    EMA,
    Position,
    Trained,
    check_files,
    checkpoint_name,
    find_last,
    load,
    refuse_other_recipe,
    save,
)
from latentsync.train.log import Row, TrainingLog, read_log
from latentsync.train.muon import Muon
from latentsync.train.processes import StopRequest, catching_signals, explaining, ignore_signals

Reason = Literal["finished", "signal", "time"]
STOPS: tuple[Reason, ...] = ("signal", "time")
Batch = dict[str, Tensor]


class Objective(Protocol):
    """What is minimised.

    weights  of the losses in the sum whose gradient is taken; a loss that is not named here is only logged
    """

    @property
    def weights(self) -> Mapping[str, float]: ...

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch by name, each a mean over its samples; `model` is in training mode."""


@dataclass(frozen=True, slots=True)
class ValidationShard:
    """Which share of a validation is this process's, and where files may be written."""

    rank: int
    processes: int
    samples: int
    output: Path

    def share_of(self, items: Sequence[Any]) -> Iterator[tuple[int, Any, bool]]:
        """This process's items: their index, the item, and whether it counts.

        Every process gets equally many, the last item again where there are none left: all of them must call
        the model equally often, because sharded weights are gathered by all processes together.
        """
        for turn in range(-(-len(items) // self.processes)):
            index = turn * self.processes + self.rank
            yield index, items[min(index, len(items) - 1)], index < len(items)


Validate = Callable[[nn.Module, ValidationShard], list[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Score:
    """The validation measure that decides which checkpoint is the best."""

    name: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What is trained, on what, and how it is validated.

    model      everything that is trained; its wrapped self is given to `objective` and `validate`
    network    name of the submodule that is saved as weights; "" for the whole model
    learning_rate_shares  of parameters whose name starts with a key; of others it is 1
    samples    `samples[k]` is a dict of tensors, a pure function of k; its entry "note", a string, is shown
    validate   measures per item, for this process's share of the items, called with the EMA weights; a
               measure "a/b" is put into a table "a"
    on_log     called by the main process with every row so far, after each new one
    """

    recipe: TrainingRecipe
    model: nn.Module
    network: str
    kind: str
    config: BaseModel
    objective: Objective
    samples: Dataset[Any]
    data: str
    output: Path
    validate: Validate | None = None
    validate_every_samples: int = 0
    score: Score | None = None
    learning_rate_shares: Mapping[str, float] = field(default_factory=dict)
    on_log: Callable[[Sequence[Row]], None] | None = None
    workers: int = 0
    stop_after_s: float | None = None
    trackers: Sequence[str] = ("tensorboard",)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: all samples seen, or stopped by a signal or because its time was up."""

    reason: Reason
    position: Position
    rows: list[Row] = field(repr=False)


def train(run: TrainingRun, accelerator: Accelerator, report: Report) -> Ending:
    """Train until all samples are seen, from the last checkpoint in `run.output` if there is one.

    Raises:
        RecipeError: the checkpoint is of another recipe, or a loss or gradient became NaN or infinite.
        MemoryShortage: the batch does not fit.
        LatentSyncError: another process ended.
    """
    table, checkpoints = run.recipe.run, run.output / "checkpoints"
    trained = _prepare(run, accelerator)
    position = _resume(run, trained, checkpoints, report)
    steps = table.samples // table.batch_samples
    if position.steps >= steps:
        return Ending("finished", position, read_log(run.output))
    log = TrainingLog(
        run.output,
        samples=position.samples,
        is_main=accelerator.is_main_process,
        trackers=run.trackers,
        recipe=run.recipe,
    )
    if log.damaged_lines:
        report(Note(f"'{log.path}': {log.damaged_lines} damaged lines are skipped", "warning"))
    batches = read_batches(run.samples, run.recipe, accelerator, position.steps, workers=run.workers)
    clock = _Clock(run, position)
    reason: Reason = "finished"
    with (
        catching_signals() as stop,
        explaining(table, lambda: _last_good(checkpoints)),
        contextlib.closing(log),
    ):
        while position.steps < steps and reason == "finished":
            _set_learning_rate(run, trained.optimizer, position)
            losses, reason = _backward(run, trained, batches, position, clock.reason_to_stop(stop), report)
            norm = _optimize(run, trained, position)
            _advance(position, losses, table)
            report(Progress("training", position.samples, steps * table.batch_samples, "samples"))
            is_last = position.steps == steps
            # A run that has reached its end is finished, whatever was asked of it meanwhile.
            reason = "finished" if is_last else reason
            if is_last or is_due(table.log_every_samples, position, table):
                _log(run, log, position, clock.measure(position, norm, trained.optimizer), report)
            is_best = False
            if run.validate and (is_last or is_due(run.validate_every_samples, position, table)):
                is_best = _validate(run, run.validate, trained, log, position, report)
            is_stopping = is_last or reason != "finished"
            # The best weights are saved at once: a step later they no longer exist.
            if is_best or is_stopping or is_due(table.save_every_samples, position, table):
                save(trained, position, checkpoints, keep_last=table.keep_last)
    accelerator.wait_for_everyone()
    return Ending(reason, position, log.rows)


def is_due(every_samples: int, position: Position, table: RunTable) -> bool:
    """Whether the last step reached or passed a multiple of `every_samples`."""
    before = position.samples - table.batch_samples
    return position.samples // every_samples > before // every_samples


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum that is minimised.

    >>> weighted_sum({"a": torch.tensor(2.0), "accuracy": torch.tensor(0.5)}, {"a": 3.0})
    tensor(6.)
    """
    return sum((weight * losses[name] for name, weight in weights.items()), torch.zeros(()))


def learning_rate(table: OptimizerTable, samples: int, total: int) -> float:
    """The learning rate of the optimizer step after which `samples` of `total` will have been seen.

    >>> table = OptimizerTable(
    ...     kind="adamw", learning_rate=1, weight_decay=0, betas=(0.9, 0.999), max_gradient_norm=1,
    ...     schedule="constant", warmup_samples=4, final_share=0,
    ... )
    >>> [learning_rate(table, samples, 100) for samples in (1, 2, 4, 100)]
    [0.25, 0.5, 1.0, 1.0]
    """
    risen = min(1.0, samples / table.warmup_samples) if table.warmup_samples else 1.0
    if table.schedule == "constant":
        return table.learning_rate * risen
    done = min(1.0, max(0, samples - table.warmup_samples) / max(1, total - table.warmup_samples))
    # Half a cosine, without restarts. Source: Loshchilov and Hutter 2017.
    fallen = table.final_share + (1 - table.final_share) * (1 + math.cos(math.pi * done)) / 2
    return table.learning_rate * risen * fallen


def _prepare(run: TrainingRun, accelerator: Accelerator) -> Trained:
    table = run.recipe.optimizer
    optimizer: torch.optim.Optimizer
    if table.kind == "muon":
        if run.recipe.run.sharding == "fsdp":
            raise RecipeError(
                'optimizer.kind = "muon" needs whole matrices, which run.sharding = "fsdp" splits',
                hint="use run.sharding=ddp or optimizer.kind=adamw",
            )
        trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
        optimizer = Muon(trained, lr=table.learning_rate, betas=table.betas, weight_decay=table.weight_decay)
    else:
        optimizer = torch.optim.AdamW(
            _parameter_groups(run.model, run.learning_rate_shares),
            lr=table.learning_rate,
            betas=table.betas,
            weight_decay=table.weight_decay,
        )
    model, optimizer = accelerator.prepare(run.model, optimizer)
    return Trained(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        # After `prepare`: sharded as the weights are.
        ema=EMA(model.parameters(), run.recipe.run.average_decay),
        network=run.network,
        kind=run.kind,
        config=run.config,
        recipe=run.recipe,
    )


def _parameter_groups(model: nn.Module, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """The trained parameters, a group for each share of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((share for prefix, share in shares.items() if name.startswith(prefix)), 1.0)
            groups.setdefault(share, []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items()]


def _resume(run: TrainingRun, trained: Trained, checkpoints: Path, report: Report) -> Position:
    last = find_last(checkpoints)
    if last is None:
        return Position(data=run.data)
    check_files(last)
    refuse_other_recipe(last, run.recipe)
    position = load(trained, last)
    if position.data != run.data:
        report(Note(f"the data has changed since sample {position.samples}; training continues", "warning"))
        position.data = run.data
    report(Note(f"resuming from {last}: {position.samples} samples seen"))
    return position


def _set_learning_rate(run: TrainingRun, optimizer: torch.optim.Optimizer, position: Position) -> None:
    batch, samples = run.recipe.run.batch_samples, run.recipe.run.samples
    # A partial batch at the end is never trained on, so the schedule ends with the last whole one.
    rate = learning_rate(run.recipe.optimizer, position.samples + batch, samples // batch * batch)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)  # a checkpoint from before there were shares has none


def _backward(
    run: TrainingRun,
    trained: Trained,
    batches: Iterator[tuple[Batch, str]],
    position: Position,
    stop_reason: Reason,
    report: Report,
) -> tuple[dict[str, float], Reason]:
    """Compute the gradients of one batch.

    Args:
        stop_reason: why this process should stop after this batch, or "finished" if it should not.

    Returns:
        The batch's mean losses over all processes, and the reason to stop that all of them agree on.
    """
    accelerator, model = trained.accelerator, trained.model.train()
    table = run.recipe.run
    count = table.batch_samples // (table.micro_batch_samples * accelerator.num_processes)
    # Dropout is the only draw from torch's own stream, which is seeded so that it depends on the step alone.
    torch.manual_seed(
        Seeds(run.recipe.seed, accelerator.process_index).generator(f"step/{position.steps}").initial_seed()
    )
    total: dict[str, Tensor] = {}
    for index in range(count):
        batch, note = next(batches)
        for line in note.splitlines():
            report(Note(line, "warning"))
        is_last = index == count - 1
        # Gradients are averaged over the processes once, in the backward pass of the last micro-batch.
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            losses = run.objective.losses(model, batch)
            # The share of the whole batch, so that the size of a micro-batch changes no gradient.
            accelerator.backward(weighted_sum(losses, run.objective.weights) / count)
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss.detach().float() / count
    # Signals reach processes at different times, so that stopping is agreed on along with the losses.
    votes = [torch.tensor(float(stop_reason == reason), device=accelerator.device) for reason in STOPS]
    numbers = accelerator.reduce(torch.stack([*total.values(), *votes]), reduction="mean").tolist()
    means = dict(zip(total, numbers, strict=False))
    agreed = (reason for reason, share in zip(STOPS, numbers[-len(STOPS) :], strict=True) if share)
    for name, value in means.items():
        if not math.isfinite(value):
            raise _fault(run, position, f"the loss {name!r} is {value}")
    return means, next(agreed, "finished")


def _optimize(run: TrainingRun, trained: Trained, position: Position) -> float:
    """Clip the gradients, take an optimizer step and update the EMA; returns the norm before clipping."""
    accelerator = trained.accelerator
    # Once per step: clipped micro-batch by micro-batch, the result would depend on their size.
    most = run.recipe.optimizer.max_gradient_norm
    norm = float(accelerator.clip_grad_norm_(trained.model.parameters(), most))
    # With a gradient scaler such a step is skipped and the scale halved.
    if not math.isfinite(norm) and accelerator.scaler is None:
        named = trained.model.named_parameters()
        bad = (name for name, value in named if value.grad is not None and not value.grad.isfinite().all())
        raise _fault(run, position, f"the gradient of {next(bad, 'the model')!r} is {norm}")
    trained.optimizer.step()
    trained.optimizer.zero_grad()
    trained.ema.update(position.steps + 1)
    return norm


def _fault(run: TrainingRun, position: Position, what: str) -> RecipeError:
    return RecipeError(
        f"step {position.steps + 1}: {what}; {_last_good(run.output / 'checkpoints')}",
        hint="lower optimizer.learning_rate or use run.precision=fp32, and start again in another folder",
    )


def _last_good(checkpoints: Path) -> str:
    last = find_last(checkpoints)
    return "no checkpoint has been written yet" if last is None else f"the last good checkpoint is {last}"


def _advance(position: Position, losses: Mapping[str, float], table: RunTable) -> None:
    position.steps += 1
    position.samples += table.batch_samples
    position.counted += 1
    for name, value in losses.items():
        position.sums[name] = position.sums.get(name, 0.0) + value


def _log(
    run: TrainingRun, log: TrainingLog, position: Position, measured: dict[str, float], report: Report
) -> None:
    """Write the mean losses since the last row."""
    losses = {name: total / position.counted for name, total in position.sums.items()}
    position.sums, position.counted = {}, 0
    log.write({"samples": position.samples, "steps": position.steps, "losses": losses, **measured})
    report(Measured(position.steps, losses | {"samples/s": measured["samples_per_s"]}))
    if run.on_log:
        run.on_log(log.rows)


def _validate(
    run: TrainingRun,
    validate: Validate,
    trained: Trained,
    log: TrainingLog,
    position: Position,
    report: Report,
) -> bool:
    """Validate the EMA weights and log the means; returns whether this is the best so far."""
    accelerator = trained.accelerator
    rank, processes = accelerator.process_index, accelerator.num_processes
    shard = ValidationShard(rank, processes, position.samples, run.output)
    with trained.ema.applied(), torch.no_grad():
        # Items, not means, are gathered: processes may have different numbers of them.
        items = gather_object(validate(trained.model.eval(), shard))
    tables: dict[str, dict[str, float]] = {"validation": {}}
    for name in sorted({name for item in items for name in item}):
        # fsum rounds once, so the mean does not depend on which process measured which item.
        values = [item[name] for item in items if name in item]
        table, _, key = name.rpartition("/")
        tables.setdefault(table or "validation", {})[key] = math.fsum(values) / len(values)
    means = tables["validation"]
    log.write({"samples": position.samples, "steps": position.steps, **tables})
    report(Measured(position.steps, {f"validation {name}": value for name, value in means.items()}))
    if run.on_log:
        run.on_log(log.rows)
    log.show_files(position.samples)
    if run.score is None or run.score.name not in means:
        return False
    value = means[run.score.name]
    sign = 1 if run.score.better == "higher" else -1
    if position.best is not None and sign * value <= sign * position.best:
        return False
    position.best, position.best_at = value, checkpoint_name(position)
    return True


class _Clock:
    """How fast the run is, how much memory it takes, and whether its time is up."""

    def __init__(self, run: TrainingRun, position: Position) -> None:
        self.started = self.last = time.monotonic()
        self.samples = position.samples
        self.stop_after_s = run.stop_after_s

    def reason_to_stop(self, stop: StopRequest) -> Reason:
        if stop.signal is not None:
            return "signal"
        is_over = self.stop_after_s is not None and time.monotonic() - self.started >= self.stop_after_s
        return "time" if is_over else "finished"

    def measure(self, position: Position, norm: float, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        now = time.monotonic()
        speed = (position.samples - self.samples) / max(1e-9, now - self.last)
        self.last, self.samples = now, position.samples
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        else:
            # macOS counts in bytes, Linux in KiB.
            unit_bytes = 1 if sys.platform == "darwin" else 1024
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
        rate = optimizer.param_groups[0]["lr"]
        return {
            "learning_rate": rate,
            "gradient_norm": norm,
            "samples_per_s": speed,
            "memory_bytes": memory,
            "elapsed_s": now - self.started,
        }


class MicroBatches(Sampler[list[int]]):
    """The samples of one process, micro-batch by micro-batch, from an optimizer step to the end of the run.

    Every step sees the next `batch_samples` samples, however many processes share them.
    """

    def __init__(self, table: RunTable, first_step: int, *, rank: int, processes: int) -> None:
        self.table, self.first_step, self.rank, self.processes = table, first_step, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        table = self.table
        share = table.batch_samples // self.processes
        for step in range(self.first_step, table.samples // table.batch_samples):
            first = step * table.batch_samples + self.rank * share
            for start in range(first, first + share, table.micro_batch_samples):
                yield list(range(start, start + table.micro_batch_samples))


class _FailuresReturned(Dataset[Any]):
    """Returns failures instead of raising them: raised in a worker, one would arrive as a traceback."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Any:
        try:
            return self.samples[number]
        except LatentSyncError as error:
            return error


def read_batches(
    samples: Dataset[Any],
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    first_step: int,
    *,
    workers: int,
) -> Iterator[tuple[Batch, str]]:
    """Read micro-batches to the device, each with the notes about its samples.

    Raises:
        LatentSyncError: what `samples` raised.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    loader = DataLoader(
        _FailuresReturned(samples),
        batch_sampler=MicroBatches(recipe.run, first_step, rank=rank, processes=processes),
        num_workers=workers,
        collate_fn=_collate,
        # Only from pinned memory do copies to the GPU overlap with its computing.
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=ignore_signals,
        generator=Seeds(recipe.seed).generator("loader"),  # otherwise it would draw from torch's own stream
    )
    for collated in loader:
        if isinstance(collated, LatentSyncError):
            raise collated
        batch, note = collated
        yield {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}, note


def _collate(samples: list[Any]) -> tuple[Batch, str] | LatentSyncError:
    for sample in samples:
        if isinstance(sample, LatentSyncError):
            return sample
    notes = [note for sample in samples if (note := sample.pop("note", ""))]
    batch: Batch = default_collate(samples)
    return batch, "\n".join(notes)
