"""The machine, and the clock that all benchmarks share."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from rddm_fast.fast.graphs import capture
from rddm_fast.fast.tuning.clock import clock_of
from rddm_fast.system.portable.processor import processor
from rddm_fast.system.timing import in_turns


def machine() -> str:
    """Return the processor's name and the number of cores."""
    return f"{processor()}, {os.cpu_count()} cores"


def conditions(device: str) -> dict[str, Any]:
    """Return where a benchmark ran: the machine, the device's name, torch's version and the number of threads."""
    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def memory(field: str) -> float:
    """This process's memory in MiB: VmRSS now, VmHWM at most. (getrusage's maximum is its parent's, too.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 2**10


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call: the median, and the 20th and 80th percentiles as its spread."""

    p20: float
    p50: float
    p80: float


def on_device(calls: Sequence[Callable[[], object]], device: torch.device) -> Callable[[], object]:
    """Return a function that runs the calls in a row; on a GPU it replays one CUDA graph of all of them.

    A graph leaves out the host's work, which takes longer than the kernels of small images do. What each call returns
    is kept until the last has run, so that none writes where another has just written.

    Raises:
        CaptureFailed: a call waits for the device.
    """

    run = one_by_one(calls)
    return capture(run, device)[0].replay if device.type == "cuda" else run


def one_by_one(calls: Sequence[Callable[[], object]]) -> Callable[[], list[object]]:
    """Return a function that makes the calls in a row."""
    return lambda: [call() for call in calls]


def device_kernels(run: Callable[[], object]) -> list[tuple[str, float]]:
    """Return the name of each kernel that `run` runs on the GPU, in order, and its microseconds there."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    ran = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
    return [(event.name, event.device_time) for event in ran]


def side_by_side(
    calls: Mapping[str, Callable[[], object]], device: torch.device | str, repeats: int, *, count: int = 1
) -> dict[str, Timing]:
    """Time the calls in turns, `repeats` times (at least 2) after one round of warm-up.

    Each time is divided by `count`, which says how often a call does the same; on a GPU it is taken between two events.
    """

    times = in_turns(calls, repeats, clock=clock_of(torch.device(device)))
    found = {}
    for name, of in times.items():
        # Inclusive percentiles stay within the timings, even if there are only a few.
        deciles = statistics.quantiles([1e3 * t / count for t in of], n=10, method="inclusive")
        found[name] = Timing(deciles[1], deciles[4], deciles[7])
    return found
