"""Restore on a cluster: the stages as one stream of Ray Data."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from os import PathLike
from typing import Any

from ...diffusion.residual import ResidualDiffusion
from ...restoration.files.outcome import Outcome
from ...restoration.restore import Restorer
from ...system.errors import one_line
from ...system.extras import require
from .cluster import ClusterError, Division, divided, joined
from .jobs import Job, check_apart, planned
from .places import Place
from .stages import Restore, read, write

ROUND = 1_000_000
"""The most files that are planned ahead: their names are in memory."""
BLOCK = 32
"""The most files in a block, Ray's unit of work and of trying again."""
TRIES = 3
"""How often a block is tried again whose process died."""

Event = tuple[str, Any]
"""("planned", how many files more), ("left_out", addresses) or ("outcome", an `Outcome`)."""


def restore_on_ray(
    diffusion: ResidualDiffusion,
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    on: str = "ray",
    overwrite: bool = False,
    workers: int | None = None,
    batch: int = 8,
    device: str = "auto",
    on_left_out: Callable[[Sequence[str]], None] | None = None,
    on_planned: Callable[[int], None] | None = None,
    **settings: Any,
) -> Iterator[Outcome]:
    """Restore the images of a folder or an object store on a Ray cluster; yields one Outcome per file as it is done.

    The work streams: neither the names of all files nor their pixels are ever in one memory, and the outcomes come in
    no order. A file that cannot be read or written becomes an outcome with an error, and the rest is still restored. A
    file whose result exists is skipped unless `overwrite` is true, so that an interrupted run is resumed by the same
    call. Each result appears whole or not at all. Where a process or a machine dies, its files are tried again; one
    that kills every process that takes it becomes an outcome with an error.

    Every machine has this package, and sees `source` and `target` by the same address.

    Args:
        diffusion: a restoring model that takes no mask; it is sent to the machines.
        source: a file, or a folder, which stands for every image below it: a path or a URL that fsspec reads.
        target: the folder for the results, which keep their names.
        on: the cluster (`cluster.joined`).
        overwrite: also restore files whose result exists.
        workers: processes with a sampler each; None for one per GPU, or one per machine where there is no GPU.
        batch: the most pictures of one size that are restored at once. Larger ones than a tile are restored one by one.
        device: "auto", "cpu" or "cuda".
        on_left_out: called with the files whose suffix is not that of a picture that is read, folder by folder.
        on_planned: called with how many files the plan has so far.
        settings: arguments of `restoration.restore.Restorer`.

    Raises:
        ClusterError: no cluster answers, or it has no GPU and one is asked for.
        ValueError: the model takes a mask; the results would overwrite images, or could not be written whole.
        ImportError: a package is not installed, such as that which reads s3://.
    """
    if diffusion.input_condition:
        raise ValueError("this model takes a mask, and on a cluster there are none: restore these on one machine")
    Restorer(diffusion, **{name: value for name, value in settings.items() if name not in ("dtype", "compile")})
    places = Place.of(source), Place.of(target)
    for place in places:
        if place.scheme == "memory":
            raise ValueError(f"{place} is in the memory of one process, where no other finds it")
    check_apart(*places)
    with joined(on) as ray:
        work = {"source": str(places[0]), "target": str(places[1]), "overwrite": overwrite, "batch": batch}
        work |= {"model": [ray.put(copy.deepcopy(diffusion).cpu())], "settings": settings}
        work |= {"workers": workers, "device": device}
        files = 0
        for kind, value in _told(ray, work):
            if kind == "outcome":
                yield value
            elif kind == "planned":
                files += value
                if on_planned is not None:
                    on_planned(files)
            elif on_left_out is not None:
                on_left_out(value)


def _told(ray: Any, work: dict[str, Any]) -> Iterator[Event]:
    """Yield the events of a `Driver` on the cluster: Ray Data does not run through Ray's client."""
    try:
        driver = ray.remote(num_cpus=0)(Driver).remote(work)
        while taken := ray.get(driver.take.remote()):
            yield from taken
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | ImportError):
            raise error.cause from None
        reason = error.cause if isinstance(error.cause, Exception) else error
        raise ClusterError(f"the work on the cluster ended: {type(reason).__name__}: {one_line(reason)}") from error
    except ray.exceptions.RayActorError as error:
        reason = "its process died, or has not this package as this machine has it"
        raise ClusterError(f"the work on the cluster ended: {reason}; the same command resumes it") from error


class Driver:
    """Runs the stream on the cluster; `work` is what `events` takes."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.events = events(**work)

    def take(self) -> list[Event]:
        """Return what has happened since, for half a second, and at least one event; nothing at the end."""
        until, taken = time.monotonic() + 0.5, []
        for event in self.events:
            taken.append(event)
            if time.monotonic() > until:
                break
        return taken


def events(
    *,
    model: list[Any],
    source: str,
    target: str,
    overwrite: bool,
    workers: int | None,
    batch: int,
    device: str,
    settings: dict[str, Any],
) -> Iterator[Event]:
    """Plan and do the work, in rounds of at most `ROUND` files; `model` holds Ray's reference to it."""
    ray = require("ray", "ray")
    machines = sum(node["Alive"] for node in ray.nodes())
    division = divided(ray.cluster_resources(), machines, workers=workers, device=device)
    stages = _Stages(division, (model[0], settings, batch, division.threads))
    waiting: list[Job] = []
    for plan in planned(Place.of(source), Place.of(target), overwrite=overwrite):
        yield "planned", len(plan.jobs) + len(plan.outcomes)
        if plan.left_out:
            yield "left_out", plan.left_out
        yield from (("outcome", outcome) for outcome in plan.outcomes)
        waiting += plan.jobs
        while len(waiting) >= ROUND:
            yield from (("outcome", outcome) for outcome in stages.done(waiting[:ROUND]))
            waiting = waiting[ROUND:]
    yield from (("outcome", outcome) for outcome in stages.done(waiting))


class _Stages:
    """The stages on the cluster; `arguments` are those of `Restore`."""

    def __init__(self, division: Division, arguments: tuple[Any, ...]) -> None:
        self.division, self.arguments = division, arguments

    def done(self, jobs: list[Job]) -> Iterator[Outcome]:
        """Do the jobs; yields the outcome of each, as it comes."""
        left = {job.source: job for job in jobs}
        size = min(BLOCK, max(self.arguments[2], math.ceil(len(jobs) / (4 * self.division.workers))))
        # Files whose block was lost again and again are tried alone: all but the one that kills are then restored.
        for rows in (size, 1):
            for row in self._stream(list(left.values()), rows) if left else ():
                if left.pop(row["source"], None) is None:
                    continue
                error, note = row["error"] or None, row["note"] or None
                target = row["target"] if error is None else None
                yield Outcome(row["source"], target, seconds=row["seconds"], error=error, note=note)
        for job in left.values():
            died = "the processes that worked on it died, also where they had nothing else: see Ray's logs"
            yield Outcome(job.source, error=f"{job.source} was not restored: {died}")

    def _stream(self, jobs: list[Job], rows: int) -> Iterator[dict[str, Any]]:
        """Stream the jobs through the stages; yields what became of each but those whose blocks are lost."""
        data, arrow = require("ray.data", "ray"), require("pyarrow", "ray")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a lost block is ours to try again
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        names = arrow.Table.from_pylist([asdict(job) for job in jobs])
        actors: dict[str, Any] = {"batch_size": None, "compute": data.ActorPoolStrategy(size=self.division.workers)}
        actors |= {"num_cpus": self.division.cpus, "num_gpus": self.division.gpus}
        io: dict[str, Any] = {"batch_size": None, "num_cpus": self.division.io_cpus, "max_retries": TRIES}
        stream = data.from_arrow(names, override_num_blocks=math.ceil(len(jobs) / rows))
        with warnings.catch_warnings():
            # Ray before 2.64 has this way alone to end the tries of a block that kills every process.
            warnings.simplefilter("ignore")
            stream = stream.map_batches(read, **io)
            stream = stream.map_batches(
                Restore, fn_constructor_args=self.arguments, max_task_retries=TRIES, **actors
            ).map_batches(write, **io)
        yield from stream.iter_rows()
