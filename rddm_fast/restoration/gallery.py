"""A picture of results beside their ground truth, to see where a model fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

from torch import Tensor

from ..images.picture import Picture, write_image
from ..images.prepared import resized
from ..images.sheet import captioned, sheet, text

AMPLIFIED = 4  # how much brighter differences are shown
GAP = 8


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a gallery: prediction and truth, (3, H, W) in [0, 1], and the numbers of the caption."""

    name: str
    pred: Tensor
    target: Tensor
    numbers: Mapping[str, float]


def write_gallery(path: str | PathLike[str], rows: Sequence[Row], *, side: int = 256) -> None:
    """Write a PNG that shows each row's prediction, truth and difference, the difference four times as bright.

    Images larger than `side` pixels are scaled down to fit. The file appears whole or not at all.
    """
    titles = sheet(
        [[text([title]) for title in ("prediction", "truth", f"difference x{AMPLIFIED}")]], gap=GAP, column=side
    )
    drawn = [_drawn(row, side) for row in rows]
    write_image(path, Picture(sheet([[titles], *([image] for image in drawn)], gap=GAP, margin=GAP)))


def _drawn(row: Row, side: int) -> Tensor:
    """Draw the three images below the name and the numbers, four per line."""
    images = [row.pred, row.target, ((row.pred - row.target).abs() * AMPLIFIED).clamp(0, 1)]
    numbers = [f"{name} {value:.4g}" for name, value in row.numbers.items()]
    lines = [row.name, *("   ".join(numbers[start : start + 4]) for start in range(0, len(numbers), 4))]
    return captioned(sheet([[_fitted(image, side) for image in images]], gap=GAP, column=side), lines)


def _fitted(image: Tensor, side: int) -> Tensor:
    """Scale `image` down if it is larger than `side` pixels."""
    height, width = image.shape[-2:]
    scale = min(1.0, side / max(height, width))
    return resized(image, (max(1, round(height * scale)), max(1, round(width * scale))))
