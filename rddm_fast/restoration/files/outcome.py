"""What became of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...images.picture import Picture


@dataclass(frozen=True)
class Outcome:
    """What became of one input: restored in `seconds`, skipped because its result exists, or failed with `error`.

    Attributes:
        source: the file; a text where it is an address such as s3://bucket/photo.jpg, and so is `target`.
        scores: PSNR in dB and SSIM of each image that was compared with the clean one, by name; None without one.
        note: how it was restored otherwise than asked for, such as in smaller tiles; None if as asked for.
        comparison: the picture that shows the file and its result side by side; None if not asked for.
        cause: the exception that the error tells of, for its traceback.
    """

    source: Path | str
    target: Path | str | None = None
    seconds: float = 0.0
    skipped: bool = False
    error: str | None = None
    scores: Mapping[str, tuple[float, float]] | None = None
    note: str | None = None
    comparison: Path | None = None
    cause: Exception | None = None


@dataclass(frozen=True)
class Done:
    """What the work on one file yields.

    Attributes:
        pictures: what is to be written and where, in this order; the result comes last.
        scores, note: those of its `Outcome`.
    """

    pictures: Sequence[tuple[Path, Picture]]
    scores: Mapping[str, tuple[float, float]] | None = None
    note: str | None = None
