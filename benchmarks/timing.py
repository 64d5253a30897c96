"""Timing several ways to do the same thing, side by side."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


def machine() -> str:
    """The processor's name and how many of them there are."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def p20_p50_p80(times: Sequence[float]) -> tuple[float, float, float]:
    """Percentiles of at least two timings; they stay among them, however few these are."""
    deciles = statistics.quantiles(times, n=10, method="inclusive")
    return deciles[1], deciles[4], deciles[7]


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: median, and the 20th and 80th percentiles as its spread."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        return cls(*p20_p50_p80(milliseconds))


def side_by_side(
    calls: Mapping[str, Callable[[], object]], *, repeats: int = 15, warm_up: int = 2, synchronise: bool = False
) -> dict[str, Timing]:
    """Time each call `repeats` times, in turns, so that a busy moment of the machine falls on all of them.

    With `synchronise`, until the GPU is done with it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(warm_up + repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if synchronise:
                torch.cuda.synchronize()
            if repeat >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: Timing.of(milliseconds) for name, milliseconds in times.items()}
