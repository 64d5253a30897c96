"""The batches of a run: step n always has the same items, so that a run can stop and resume anywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .settings import SettingsError, TrainSettings


def batches(
    dataset: Dataset[dict[str, Any]], settings: TrainSettings, step: int, share: tuple[int, int]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the `settings.accumulate` batches of each step from `step` on: this process's part of them.

    Batch b of size B holds the items b B to (b + 1) B - 1, modulo the length of the data set. Each process takes an
    equal run of them.

    Args:
        step: the first step.
        share: (process, processes).

    Raises SettingsError if the processes cannot share a batch evenly.
    """
    rank, world = share
    if settings.batch_size % world:
        raise SettingsError(
            f"train.batch_size is {settings.batch_size}, which {world} processes cannot share evenly: "
            f"choose a multiple of {world}"
        )
    size = settings.batch_size // world
    first, last = (n * settings.accumulate for n in (step, settings.steps))
    starts = range(first * settings.batch_size + rank * size, last * settings.batch_size, settings.batch_size)
    sampler = _Runs(starts, size, len(dataset))  # type: ignore[arg-type]
    loader = iter(
        DataLoader(dataset, batch_sampler=sampler, num_workers=settings.workers, worker_init_fn=_leave_signals)
    )
    for _ in range(step, settings.steps):
        yield [next(loader) for _ in range(settings.accumulate)]


def _leave_signals(worker: int) -> None:
    """Leave it to the trainer to stop. Ctrl-C, `timeout` and batch systems signal its workers too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Runs:
    """Runs of `size` indices from each of `starts`, modulo `count`, made when a `DataLoader` asks for them."""

    def __init__(self, starts: range, size: int, count: int) -> None:
        self.starts, self.size, self.count = starts, size, count

    def __iter__(self) -> Iterator[list[int]]:
        return ([i % self.count for i in range(start, start + self.size)] for start in self.starts)

    def __len__(self) -> int:
        return len(self.starts)
