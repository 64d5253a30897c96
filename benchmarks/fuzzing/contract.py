"""The contract of what reads users' files: a result, or one sentence of the package's own errors, and nothing else."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS = 20.0
"""A call that takes longer is taken for one that hangs."""
LONGEST = 1000
"""Characters of a sentence. A longer one has taken in what it complains of."""
MEMORY = 3 << 30
"""Bytes that a call may allocate; a file that asks for more must be refused as any other."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Found:
    """How one call went.

    Attributes:
        kind: what was called or read, such as an op or a format.
        answer: "right", "refused" (with a sentence) or "wrong".
        says: of a refused call its sentence; of a wrong one what is wrong.
    """

    kind: str
    answer: str
    says: str = ""


class Hangs(BaseException):
    """A call took longer than `SECONDS`; no `except Exception` of what was called can swallow it."""


def kept(kind: str, call: Callable[[], object], errors: tuple[type[Exception], ...]) -> Found:
    """Run a call and say whether it keeps the contract.

    Args:
        kind: named in the answer.
        call: may raise AssertionError for a result that is not right.
        errors: what it may raise. ValueError itself may be among them, and is then allowed from the package's own
            lines alone: one of Python or torch is no sentence to a user.
    """
    said: BaseException | None = None
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as warned, _stderr() as printed:
        warnings.simplefilter("always")
        try:
            with _limited():
                call()
        except (Exception, Hangs) as error:
            said = error
    wrong = [f"warned: {warning.message}" for warning in warned]
    if text := printed():
        wrong.append(f"printed {text[:300]!r}")
    if time.monotonic() - started > SECONDS:
        wrong.append(f"took {time.monotonic() - started:.0f} s")
    if said is None:
        return Found(kind, "wrong" if wrong else "right", "; ".join(wrong))
    if not _allowed(said, errors):
        wrong.append("".join(traceback.format_exception(said)))
    elif not str(said) or _CONTROL.search(str(said)) or len(str(said)) > LONGEST:
        wrong.append(f"no sentence: {str(said)[:300]!r}, {len(str(said))} characters")
    return Found(kind, "wrong" if wrong else "refused", "; ".join(wrong) or str(said))


def _allowed(error: BaseException, errors: tuple[type[Exception], ...]) -> bool:
    if type(error) is not ValueError:
        return isinstance(error, tuple(e for e in errors if e is not ValueError))
    frames = list(traceback.walk_tb(error.__traceback__))
    return ValueError in errors and str(frames[-1][0].f_globals.get("__name__")).startswith("rddm_fast.")


@contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """Lead the process's stderr into a file; what is yielded reads it, also after the `with` block."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        text: list[str] = []
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: "".join(text)
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


@contextmanager
def _limited() -> Iterator[None]:
    """Limit time and memory inside the `with` block; time in the main thread only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    main = threading.current_thread() is threading.main_thread()
    previous: Any = signal.signal(signal.SIGALRM, _hangs) if main else None
    try:
        if main:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
        yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _hangs(*_: Any) -> None:
    raise Hangs(f"no answer after {SECONDS:.0f} s")
