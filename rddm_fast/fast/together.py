"""Two networks at once on a CPU, each on half of torch's threads.

A small image cannot keep all threads busy. Two networks side by side, each on half of the threads, beat one after the
other on all of them: on 2 cores by 8 % at 64x64 in float32 and by 13 % in bfloat16 (`rddm-fast bench sampler`, the "in
turn" rows).
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
    """Two threads, each of which computes with half of the threads that torch had when they started."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        started = threading.Barrier(3)

        def start() -> None:
            torch.get_num_threads()  # The first call in a new thread adopts the global count.
            # This sets the count of this thread, and of all threads that start later.
            torch.set_num_threads(max(1, self.threads // 2))
            started.wait()

        self.pool = ThreadPoolExecutor(2, "rddm_fast", start)
        for _ in range(2):
            self.pool.submit(int)  # The pool starts a thread only for a task.
        started.wait()
        torch.set_num_threads(self.threads)  # Threads that start later get all again.


_pair: _Pair | None = None
_lock = threading.Lock()


def _forget() -> None:
    global _pair
    _pair = None  # A forked process has none of its parent's threads.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def can_be_together() -> bool:
    """Return whether two networks can be computed at once here. It takes OpenMP, which counts threads per caller."""
    return torch.backends.openmp.is_available() and torch.get_num_threads() >= 2


def together(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """Call both functions at once, without gradients, and return their results. Raises the exception of either."""
    with _lock:
        one, other = (_pool().submit(torch.no_grad()(call)) for call in (first, second))
    return one.result(), other.result()


def on_half(call: Callable[[], T]) -> T:
    """Call one function as `together` calls each of two, and return its result."""
    with _lock:
        running = _pool().submit(torch.no_grad()(call))
    return running.result()


def _pool() -> ThreadPoolExecutor:
    global _pair
    if _pair is None or _pair.threads != torch.get_num_threads():
        _pair = _Pair()
    return _pair.pool
