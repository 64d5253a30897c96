"""One run at a time in a folder."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...system.portable.locks import try_lock, unlock

NAME = "run.lock"
_held: set[int] = set()


class FolderInUse(ValueError):
    """Another run is in the folder; the sentence says which process."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock `folder` inside the `with` block; its `run.lock` says which process has it.

    The kernel releases the lock when the process ends, however it ends. The file stays: to remove it would let two
    runs lock two files of one name.

    Raises FolderInUse if another run has the lock.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(descriptor)
    try:
        _lock(descriptor, folder)
        try:
            _say(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}\n")
            yield
        finally:
            _say(descriptor, "")
            unlock(descriptor)
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        if try_lock(descriptor):
            return
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it that no other run uses it", stacklevel=4
        )
        return
    os.lseek(descriptor, 0, os.SEEK_SET)
    holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
    raise FolderInUse(
        f"{folder} is in use by another run ({holder}): wait for it or stop it, or choose another --output"
    )


def _say(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def _let_go() -> None:
    # A lock belongs to all copies of its descriptor. A loader's worker would keep it after its trainer is killed.
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_let_go)
