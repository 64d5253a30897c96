"""The folder for what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return this user's cache folder of the package; it need not exist.

    `RDDM_FAST_CACHE` names it. Without that it is where the system keeps caches: `XDG_CACHE_HOME` or `~/.cache`,
    `~/Library/Caches` on a Mac, `LOCALAPPDATA` on Windows.
    """
    named = os.environ.get("RDDM_FAST_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rddm_fast"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "rddm_fast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rddm_fast"
