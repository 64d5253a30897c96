"""The three stages of the work, which Ray Data runs on all machines at once: read, restore, write.

A row is a file: its source and target, and what became of it so far. Reading and writing are tasks on CPUs, restoring
is the work of actors, which hold the model; so a GPU waits for no decoder. A stage yields row by row: Ray cuts blocks
of about 128 MB, and holds readers back where the samplers are slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch

from ...images.picture import Picture
from ...restoration.files.failure import why_it_failed
from ...restoration.restore import SMALLER, Restorer, restored_within_memory
from ...system.extras import require
from .places import Place

Rows = dict[str, Any]
"""Ray's form of several rows: name of a column -> its values."""


def rows_of(batch: Rows) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch."""
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def read(batch: Rows) -> Iterator[Rows]:
    """Read each row's picture."""
    for row in rows_of(batch):
        picture, error = _tried(row["source"], Place.of(row["source"]).read)
        yield _row(row, picture=picture, error=error, note="", seconds=0.0)


class Restore:
    """Restores the pictures of a batch: those of one size together, no more than `batch` at once.

    Args:
        model: Ray's reference to the model.
        settings: arguments of `Restorer`.
        batch: the most pictures at once.
        threads: how many threads torch takes; None where a GPU computes.
    """

    def __init__(self, model: Any, settings: dict[str, Any], batch: int, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        diffusion = require("ray", "ray").get(model)
        self.restorer = Restorer(diffusion.to("cpu" if threads is not None else "cuda"), **settings)
        self.batch = batch

    def __call__(self, batch: Rows) -> Iterator[Rows]:
        rows = sorted(rows_of(batch), key=lambda row: _size(row["picture"]))
        for size, same in groupby(rows, key=lambda row: _size(row["picture"])):
            together = list(same)
            if not size:
                yield from (_row(row) for row in together)  # it could not be read
                continue
            for start in range(0, len(together), self.batch):
                yield from self._restored(together[start : start + self.batch])

    def _restored(self, rows: list[dict[str, Any]]) -> Iterator[Rows]:
        started = time.perf_counter()
        pictures, _ = _tried("", self.restorer.together, [row["picture"] for row in rows])
        seconds = (time.perf_counter() - started) / len(rows)
        if pictures is not None:
            for row, picture in zip(rows, pictures, strict=True):
                yield _row(row, picture=picture, seconds=seconds)
            return

        # One picture, or all of them at once, is too much: one by one each has its own error, and smaller tiles.
        for row in rows:
            started, picture = time.perf_counter(), row["picture"]
            done, error = _tried(row["source"], restored_within_memory, self.restorer, picture)
            restored, note = done or (None, None)
            yield _row(row, picture=restored, note=note or "", error=error, seconds=time.perf_counter() - started)


def write(batch: Rows) -> Iterator[Rows]:
    """Write each row's picture; what is left of the row is what became of it."""
    for row in rows_of(batch):
        picture = row.pop("picture")
        if picture is not None:
            _, row["error"] = _tried(row["source"], Place.of(row["target"]).write, picture)
        yield _row(row)


def _size(picture: Picture | None) -> tuple[int, ...]:
    return () if picture is None else tuple(picture.pixels.shape)


def _tried(source: str, work: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return what the work returns and "", or None and the sentence of why it failed.

    No column is None, which Ray would make NaN in a block where every row is.
    """
    try:
        return work(*arguments), ""
    except Exception as error:
        return None, why_it_failed(source, error, SMALLER)


def _row(row: dict[str, Any], **changed: Any) -> Rows:
    """Return a batch of one row. Pictures and None are Python's objects, which Ray stores as they are."""
    columns = {}
    for name, value in {**row, **changed}.items():
        columns[name] = np.empty(1, object)
        columns[name][0] = value
    return columns
