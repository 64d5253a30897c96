"""Sheets of sampled images, which show how far a training is."""

from __future__ import annotations

import math
from os import PathLike

import torch
from torch import Tensor

from .picture import Picture, write_image


def sheet(rows: list[Tensor], gap: int = 2) -> Tensor:
    """`rows` of images (N, C, H, W) in [0, 1], one row below the other on white: (3, height, width).

    A single row of more than eight, which generation makes, is folded into a square.
    """
    if len(rows) == 1 and len(rows[0]) > 8:
        rows = list(rows[0].split(math.ceil(math.sqrt(len(rows[0])))))
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    result = torch.ones(3, len(rows) * (height + gap) - gap, columns * (width + gap) - gap)
    for r, row in enumerate(rows):
        for c, image in enumerate(row.detach().float().cpu()):
            result[:, r * (height + gap) :, c * (width + gap) :][:, :height, :width] = image
    return result.clamp(0, 1)


def write_sheet(path: str | PathLike[str], rows: list[Tensor]) -> None:
    """Write `sheet(rows)` as a PNG."""
    write_image(path, Picture(pixels=sheet(rows)))
