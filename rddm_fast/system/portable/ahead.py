"""Ask the operating system to read a file before it is needed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def ask_ahead(path: Path) -> None:
    """Have the file's bytes read in the background, where the system can; whatever is wrong shows when it is opened."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError, ValueError):
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)
