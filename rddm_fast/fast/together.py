"""Two networks at once on a CPU, each on half of torch's threads.

A convolution of a small image is soon divided among threads as far as it goes; what two threads save on one network
after the other is less than what each saves by keeping to its own. On 2 cores the two networks of a published model
take 8 % less time so at 64x64 in float32, and 13 % in bfloat16 (`python -m benchmarks.bench_sampler`, "in turn").
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class _Pair:
    """Two threads that each compute with half of as many threads as torch had when they were started."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        started = threading.Barrier(3)

        def start() -> None:
            torch.get_num_threads()  # a thread's first question sets its number to the others'
            torch.set_num_threads(max(1, self.threads // 2))  # of this thread, but also what threads to come begin with
            started.wait()

        self.pool = ThreadPoolExecutor(2, "rddm_fast", start)
        for _ in range(2):
            self.pool.submit(int)  # a pool starts a thread for a task only
        started.wait()
        torch.set_num_threads(self.threads)


_pair: _Pair | None = None
_lock = threading.Lock()


def _forget() -> None:
    global _pair
    _pair = None  # a process forked off has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def can_be_together() -> bool:
    """Whether two networks can be computed at once here: with OpenMP, which counts its threads for each caller."""
    return torch.backends.openmp.is_available() and torch.get_num_threads() >= 2


def together(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """The results of both, which are called at the same time, without gradients. What either raises is raised here."""
    global _pair
    with _lock:
        if _pair is None or _pair.threads != torch.get_num_threads():
            _pair = _Pair()
        one, other = (_pair.pool.submit(torch.no_grad()(call)) for call in (first, second))
    return one.result(), other.result()
