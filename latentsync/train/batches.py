"""Batches in the order of the run, read by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from latentsync.errors import LatentSyncError
from latentsync.recipe.schema import Recipe
from latentsync.recipe.training import RunTable
from latentsync.runtime import Seeds
from latentsync.train.processes import ignore_signals

Batch = dict[str, Tensor]


class MicroBatches(Sampler[list[int]]):
    """The samples of one process, micro-batch by micro-batch, from a step to the end of the run.

    Every step of the optimizer sees the next `batch_samples` samples, however many processes share them.
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


class _Answering(Dataset[Any]):
    """Gives a failure back as an answer: raised in a worker, it would arrive as text with a traceback."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Any:
        try:
            return self.samples[number]
        except LatentSyncError as error:
            return error


def read_batches(
    samples: Dataset[Any],
    recipe: Recipe,
    table: RunTable,
    accelerator: Accelerator,
    first_step: int,
    *,
    workers: int,
) -> Iterator[tuple[Batch, str]]:
    """Micro-batches on the device, each with what there is to say about its samples.

    Raises:
        LatentSyncError: what `samples` raised.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    loader = DataLoader(
        _Answering(samples),
        batch_sampler=MicroBatches(table, first_step, rank=rank, processes=processes),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=ignore_signals,
        generator=Seeds(recipe.seed).generator("loader"),  # else it draws from torch's own stream
    )
    for answer in loader:
        if isinstance(answer, LatentSyncError):
            raise answer
        batch, note = answer
        yield {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}, note


def _collate(samples: list[Any]) -> tuple[Batch, str] | LatentSyncError:
    for sample in samples:
        if isinstance(sample, LatentSyncError):
            return sample
    notes = [note for sample in samples if (note := sample.pop("note", ""))]
    batch: Batch = default_collate(samples)
    return batch, "\n".join(notes)
