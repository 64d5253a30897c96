"""The package's version, and in which form it is installed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

__version__ = "0.1.0"


def installed_as() -> str:
    """Return "binary wheel (TAG)" or "pure-Python wheel (TAG)"; "source checkout" also for an editable installation."""
    package = Path(__file__).parents[1]
    for distribution in metadata.distributions(name="rddm_fast"):
        tag = re.search(r"^Tag: (\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
        if tag is not None and Path(str(distribution.locate_file(package.name))).resolve() == package.resolve():
            return f"{'pure-Python' if tag[1].endswith('-any') else 'binary'} wheel ({tag[1]})"
    return "source checkout"
