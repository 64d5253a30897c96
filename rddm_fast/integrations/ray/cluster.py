"""Ray itself: joining or starting a cluster, and how its machines are divided among the stages."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...system.errors import one_line
from ...system.extras import require


class ClusterError(ValueError):
    """The cluster cannot be reached, or has not what is asked for; one sentence."""


@contextmanager
def joined(on: str) -> Iterator[Any]:
    """Join a cluster inside the `with` block; returns Ray.

    Args:
        on: "ray" for the cluster that this machine belongs to (or RAY_ADDRESS names), and a local one if there is none;
            "ray:local" for a local one; "ray://HOST:PORT" for another, by Ray's client. A program that has called
            `ray.init` itself stays in its own.

    Raises:
        ClusterError: no cluster answers.
        ValueError: another text.
        ImportError: Ray is not installed.
    """
    if on not in ("ray", "ray:local") and not on.startswith("ray://"):
        raise ValueError(f"on is {on!r}: write ray://HOST:PORT, ray (this machine's cluster) or ray:local")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a command that restores pictures tells nobody of it
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    address = {"ray": None, "ray:local": "local"}.get(on, on)
    options: dict[str, Any] = {} if on.startswith("ray://") else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"{on} does not answer: {one_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Division:
    """How the cluster's processors are divided.

    Attributes:
        workers: the actors, each with a sampler.
        gpus: GPUs of a worker, 0 or 1.
        cpus: what a worker reserves of Ray's CPUs; the rest reads and writes.
        io_cpus: what a task that reads or writes reserves.
        threads: torch's threads in a worker; None where a GPU computes.
    """

    workers: int
    gpus: int
    cpus: float
    io_cpus: float
    threads: int | None


def divided(resources: dict[str, float], machines: int, *, workers: int | None, device: str) -> Division:
    """Divide a cluster: a worker for each GPU, or for each machine where there is none.

    Half of the CPUs, or more, are left for reading and writing, which are a good part of the work: PNG takes a core
    0.3 s per megapixel.

    Args:
        resources: of the cluster, by Ray's names.
        machines: how many it has.
        workers: how many workers; None for the number above.
        device: "auto", "cpu" or "cuda".

    Raises:
        ClusterError: it has no GPU, or fewer than workers.
    """
    found, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 0.0)
    if device == "cuda" and not found:
        raise ClusterError("device is cuda, and no machine of the cluster has a GPU: leave it out")
    gpus = int(device != "cpu" and found > 0)
    count = workers or (found if gpus else max(machines, 1))
    if gpus and count > found:
        raise ClusterError(f"workers must be at most {found}, the cluster's GPUs, not {count}")
    share = cpus / count
    own = min(1.0, share / 2) if gpus else share / 2
    return Division(count, gpus, own, min(1.0, (cpus - count * own) / 4), None if gpus else max(1, int(share)))
