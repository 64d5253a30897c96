"""Silence what a C library prints on stderr by itself, past Python."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_one_at_a_time = threading.Lock()  # two threads that swap the descriptor at once could leave it leading nowhere


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Lead the process's stderr nowhere inside the `with` block, for libraries that raise what they print as well."""
    with _one_at_a_time:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            before = os.dup(_STDERR)
        except OSError:  # stderr is closed or cannot be written to
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
            yield
        finally:
            os.dup2(before, _STDERR)
            os.close(before)
