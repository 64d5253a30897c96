"""Why a file was not restored, as one sentence."""

from __future__ import annotations

from pathlib import Path

from ...images.picture import ImageError
from ...system.errors import one_line
from ...system.memory import out_of_memory


def why_it_failed(source: Path | str, error: Exception, advice: str) -> str:
    """Return the sentence of an `Outcome` whose work raised an error.

    Args:
        source: the file; an `ImageError` names it by itself.
        error: what was raised.
        advice: what to do about a picture that needs too much memory.
    """
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, ImportError | ValueError):
        return f"{source} was not restored: {one_line(error)}"
    if out_of_memory(error):
        return f"{source} needs more memory than there is: {advice}"
    return f"{source} was not restored: {type(error).__name__}: {one_line(error)}"
