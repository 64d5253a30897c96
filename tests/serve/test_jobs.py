"""Jobs come one after the other, and are cancelled at work or waiting."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from rddm_fast.serve.jobs import MOST_WAITING, Cancelled, Job, Jobs, Refused


class Gate:
    """Work that begins, and waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.begun.set()
        assert self.go.wait(30)
        job.advance(1, 2)
        return "done"


def later(pool: ThreadPoolExecutor, jobs: Jobs, name: str | None, work: Callable[[Job], str]) -> "Future[str]":
    """Run a job in another thread; return when it is known."""
    count = len(jobs._jobs)
    future = pool.submit(jobs.run, name, work)
    while len(jobs._jobs) == count:
        pass
    return future


def test_one_after_the_other() -> None:
    jobs, gate, order = Jobs(), Gate(), []
    with ThreadPoolExecutor(8) as pool:
        first = later(pool, jobs, "a", gate)
        rest = [later(pool, jobs, None, lambda _, n=n: order.append(n) or "") for n in range(5)]  # type: ignore[misc]
        assert gate.begun.wait(30) and order == [] and jobs.progress("a") == (0, 0)
        gate.go.set()
        assert first.result() == "done" and [future.result() for future in rest] == [""] * 5
    assert order == [0, 1, 2, 3, 4] and jobs.progress("a") is None and not jobs.cancel("a")


def test_cancelled_at_work_and_waiting() -> None:
    jobs, gate, untouched = Jobs(), Gate(), Gate()
    with ThreadPoolExecutor(2) as pool:
        at_work, waiting = later(pool, jobs, "a", gate), later(pool, jobs, "b", untouched)
        assert gate.begun.wait(30) and jobs.cancel("a") and jobs.cancel("b")
        gate.go.set()
        for future in (at_work, waiting):
            with pytest.raises(Cancelled):
                future.result()
    assert not untouched.begun.is_set()


def test_stopping_cancels_all() -> None:
    jobs, gate = Jobs(), Gate()
    with ThreadPoolExecutor(3) as pool:
        futures = [later(pool, jobs, name, gate) for name in ("a", "b")]
        assert gate.begun.wait(30)
        stopped = pool.submit(jobs.stop)
        gate.go.set()
        stopped.result()
        for future in futures:
            with pytest.raises(Cancelled):
                future.result()


def test_what_is_refused_and_what_fails() -> None:
    jobs, gate = Jobs(), Gate()
    with ThreadPoolExecutor(MOST_WAITING) as pool:
        futures = [later(pool, jobs, f"job-{n}", gate) for n in range(MOST_WAITING)]
        with pytest.raises(Refused, match="16 pictures are waiting"):
            jobs.run("one-more", gate)
        gate.go.set()
        assert [future.result() for future in futures] == ["done"] * MOST_WAITING

    def fails(_: Job) -> str:
        raise RuntimeError("from the work")

    with pytest.raises(RuntimeError, match="from the work"):
        jobs.run("a", fails)
    assert jobs.run("a", gate) == "done"
