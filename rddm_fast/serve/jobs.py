"""One piece of work after the other, in one thread: how far each is, and how it is cancelled."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")
MOST_WAITING = 16
"""Jobs at once, the one at work included: each holds a picture in memory."""


class Cancelled(Exception):
    """The job was cancelled, or the server ends."""


class Refused(ValueError):
    """The job cannot be taken now."""


@dataclass
class Job:
    """How far a job is: `done` of `of` tiles or steps; `of` is 0 until that is known."""

    done: int = 0
    of: int = 0
    cancelled: bool = False

    def advance(self, done: int, of: int) -> None:
        """Note the progress. Raises Cancelled if the job was cancelled."""
        self.done, self.of = done, of
        self.check()

    def check(self) -> None:
        """Raise Cancelled if the job was cancelled."""
        if self.cancelled:
            raise Cancelled


class Jobs:
    """Runs jobs one at a time, in the order in which they came.

    All run in one thread, which is the lock around the models. It also keeps torch from starting a pool of threads for
    each connection.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="restorer")
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._unnamed = itertools.count()
        self._stopped = False

    def run(self, name: str | None, work: Callable[[Job], Result]) -> Result:
        """Wait for the jobs before this one, do `work`, and return its result.

        Args:
            name: by which it is asked for and cancelled; None if nobody will.
            work: calls `advance` or `check` of its job now and then.

        Raises:
            Cancelled: the job was cancelled, or the server ends.
            Refused: another job of this name is there, or too many wait.
        """
        job, name = Job(), f"#{next(self._unnamed)}" if name is None else name

        def begun() -> Result:
            job.check()
            return work(job)

        with self._lock:
            if name in self._jobs:
                raise Refused(f"job {name} is at work already: give each job a name of its own")
            if len(self._jobs) >= MOST_WAITING:
                raise Refused(f"{MOST_WAITING} pictures are waiting already: send this one again later")
            if self._stopped:
                raise Cancelled
            self._jobs[name] = job
            future = self._executor.submit(begun)
        try:
            return future.result()
        except CancelledError:
            raise Cancelled from None
        finally:
            with self._lock:
                del self._jobs[name]

    def progress(self, name: str) -> tuple[int, int] | None:
        """Return (done, of) of a job, or None if there is none of this name."""
        with self._lock:
            job = self._jobs.get(name)
            return None if job is None else (job.done, job.of)

    def cancel(self, name: str) -> bool:
        """Cancel a job, which ends after the tile or the step it is at; return whether there is one."""
        with self._lock:
            job = self._jobs.get(name)
            if job is not None:
                job.cancelled = True
            return job is not None

    def stop(self) -> None:
        """Cancel all jobs, take no more, and wait for the one at work to end its tile or step."""
        with self._lock:
            self._stopped = True
            for job in self._jobs.values():
                job.cancelled = True
        self._executor.shutdown(wait=True, cancel_futures=True)
