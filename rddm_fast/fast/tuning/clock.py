"""The clock of a device, several ways to compute the same timed in turns, and what the device can do at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...system.timing import in_turns, seconds
from ..graphs import capture
from .table import Peak

AT_LEAST, AT_MOST, BUDGET_S = 5, 25, 0.25
CALLS = 10
"""A GPU's graph holds so many calls in a row, so that its start does not count."""

_SCRATCH = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Bytes that push everything else out of the caches: several times a core's second level, twice a GPU's."""


def clock_of(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Return a clock that calls its argument and returns its seconds; on a GPU they are taken between two events."""
    return _between_events if device.type == "cuda" else seconds


def _between_events(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end)


def fastest(
    calls: Mapping[str, Callable[[], object]], device: torch.device, warm: Sequence[Tensor] = ()
) -> dict[str, float]:
    """Return the seconds of each call's fastest turn, as it is between other layers: with nothing in the caches but
    the tensors `warm`.

    They take 5 to 25 turns, as a quarter of a second allows. The fastest turn, and not the median, because other
    processes only ever add to the time: with one at work on one of 2 cores, the median of every way was the system's
    time slice of 8 ms. Without clearing the caches, ways with large weights win, and the whole network is slower: by
    10 % for one of 2 x 8.6 million parameters at 64x64.
    """
    scratch = torch.zeros(_SCRATCH[device.type], dtype=torch.uint8, device=device)

    def before() -> None:
        scratch.add_(1)
        for tensor in warm:
            tensor.sum()

    if device.type == "cuda":
        return _fastest_in_graphs(calls, device, before)

    def clock(call: Callable[[], object]) -> float:
        before()
        return seconds(call)

    return {name: min(times) for name, times in in_turns(calls, _repeats(calls, clock), clock=clock).items()}


def _fastest_in_graphs(
    calls: Mapping[str, Callable[[], object]], device: torch.device, before: Callable[[], None]
) -> dict[str, float]:
    """Replay graphs of CALLS calls each, and subtract one of what happens before each call."""

    def graph_of(call: Callable[[], object] | None) -> Callable[[], object]:
        def run() -> list[object]:
            kept = []
            for _ in range(CALLS):
                before()
                kept.append(None if call is None else call())
            return kept

        return capture(run, device)[0].replay

    graphs: dict[str | None, Callable[[], object]] = {name: graph_of(call) for name, call in calls.items()}
    graphs[None] = graph_of(None)
    clock = clock_of(device)
    times = in_turns(graphs, _repeats(graphs, clock), clock=clock)  # type: ignore[arg-type, type-var]
    return {name: (min(times[name]) - min(times[None])) / CALLS for name in calls}  # type: ignore[index]


def _repeats(calls: Mapping[Any, Callable[[], object]], clock: Callable[[Callable[[], object]], float]) -> int:
    return min(max(AT_LEAST, int(BUDGET_S / max(sum(map(clock, calls.values())), 1e-6))), AT_MOST)


def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Measure a product of square matrices of `dtype` and a copy, on the threads that torch has now."""
    side, size = (8192, 1 << 30) if device.type == "cuda" else (1024, 1 << 26)
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = fastest({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, device)
    return Peak(2e-9 * side**3 / found["product"], 2e-9 * size / found["copy"])
