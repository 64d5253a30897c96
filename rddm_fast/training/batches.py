"""The batches of a run: step n always has the same items, so that a run can stop and resume anywhere."""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

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

    Raises SettingsError if the processes cannot share a batch evenly; an error of the data set as it is, also where
    `settings.workers` read it; ChildProcessError if a worker dies.
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
    workers: dict[str, Any] = {"num_workers": settings.workers, "worker_init_fn": _leave_signals}
    loader = iter(DataLoader(_Told(dataset), batch_sampler=sampler, collate_fn=_collated, **workers))
    for _ in range(step, settings.steps):
        yield [_next(loader) for _ in range(settings.accumulate)]


class _Failed:
    """A user's error in reading an item, on its way from a worker.

    torch would raise it again with the worker's traceback in its message.
    """

    def __init__(self, error: Exception) -> None:
        self.error, self.traceback = error, "".join(traceback.format_exception(error))


class _Told(Dataset[Any]):
    """The items of a data set; an item that cannot be read is a `_Failed`."""

    def __init__(self, items: Dataset[dict[str, Any]]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> dict[str, Any] | _Failed:
        try:
            return self.items[index]
        except (ValueError, OSError, ImportError) as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                raise error from None  # it cannot travel; torch passes on its text
            return _Failed(error)


def _collated(items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, _Failed)), None)
    return default_collate(items) if failed is None else failed


def _next(loader: Iterator[Any]) -> dict[str, Any]:
    try:
        batch = next(loader)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise ChildProcessError(
            "a process that reads images was killed, perhaps for want of memory: lower train.workers, and run the "
            "same command again to resume"
        ) from error
    if isinstance(batch, _Failed):
        raise batch.error from RuntimeError(batch.traceback)
    return batch


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
