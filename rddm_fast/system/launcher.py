"""The launcher of several processes, such as torchrun, and what they do when it is gone.

SIGKILL, or the kernel for want of memory, ends a launcher without a word to the processes that it started. Nobody would
notice what they do, or stop them; and what they wait for while they find each other would never come.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .processes import world_size

_PARENT = os.getppid()  # the package's first import, so that no launcher is gone before it is noted here
_LOOK_EVERY = 0.5


def launcher_is_gone() -> bool:
    """Return whether this is one process of several whose launcher has ended: an orphan has another parent."""
    return world_size() > 1 and os.getppid() != _PARENT


@contextmanager
def ended_with_launcher() -> Iterator[None]:
    """End this process, with one sentence and exit code 1, if its launcher goes inside the `with` block."""
    if world_size() == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(done,), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(done: threading.Event) -> None:
    while not done.wait(_LOOK_EVERY):
        if launcher_is_gone():
            os.write(2, b"error: the launcher of several processes is gone: run the same command again\n")
            os._exit(1)  # the main thread waits inside a library, where no exception reaches it
