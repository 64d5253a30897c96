"""Times of several ways to do the same thing, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: int = 1,
    clock: Callable[[Callable[[], object]], float] = seconds,
) -> dict[str, list[float]]:
    """Time each call `repeats` times. They take turns, so that a busy moment of the machine slows all of them.

    Args:
        calls: name to what is timed.
        repeats: timed rounds.
        warm_up: rounds before them, which are not timed.
        clock: calls its argument and returns the time that this took.

    Returns:
        Each name's times, one per timed round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            taken = clock(call)
            if turn >= warm_up:
                times[name].append(taken)
    return times
