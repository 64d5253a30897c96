"""Sheets: many images in one picture, with captions.

`sheet`, `text` and `captioned` return an image (3, H, W), so a sheet can be part of a larger sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor

from ..system.extras import require
from .picture import Picture, write_image

FONT_SIZE, LINE_HEIGHT = 12, 16  # pixels


def sheet(rows: Sequence[Sequence[Tensor] | Tensor], *, gap: int = 2, margin: int = 0, column: int = 0) -> Tensor:
    """Lay images out in rows, on white.

    Args:
        rows: rows of images (C, H, W) in [0, 1], each of one or three channels and of any size; an image is put at
            the top left of its place. A row may be a batch (N, C, H, W).
        gap: pixels between neighbouring images.
        margin: pixels around the sheet.
        column: least width of a column in pixels.

    Returns:
        float32 (3, height, width) on the CPU, clamped to [0, 1].
    """
    width = max([column, *(image.shape[-1] for row in rows for image in row)])
    heights = [max(image.shape[-2] for image in row) for row in rows]
    columns = max(len(row) for row in rows)
    result = torch.ones(
        3, sum(heights) + (len(rows) - 1) * gap + 2 * margin, columns * (width + gap) - gap + 2 * margin
    )
    top = margin
    for row, row_height in zip(rows, heights, strict=True):
        for number, image in enumerate(row):
            left = margin + number * (width + gap)
            place = result[:, top : top + image.shape[-2], left : left + image.shape[-1]]
            place.copy_(image.detach())  # one channel becomes three equal ones
        top += row_height + gap
    return result.clamp(0, 1)


def text(lines: Sequence[str]) -> Tensor:
    """Draw lines of text, black on white: (3, 16 pixels per line, width of the longest line). Needs Pillow."""
    lines = [line.encode(errors="backslashreplace").decode() for line in lines]  # names need not be text
    font = require("PIL.ImageFont", "images").load_default(size=FONT_SIZE)
    width = max(1, *(math.ceil(font.getlength(line)) for line in lines))
    canvas = require("PIL.Image", "images").new("L", (width, LINE_HEIGHT * len(lines)), "white")
    pen = require("PIL.ImageDraw", "images").Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((0, number * LINE_HEIGHT), line, "black", font)
    grey = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(1, canvas.height, canvas.width)
    return grey.expand(3, -1, -1) / 255


def captioned(image: Tensor, lines: Sequence[str]) -> Tensor:
    """Put `lines` of text above `image` (C, H, W); the result is as wide as the wider of the two."""
    return sheet([[text(lines)], [image]], gap=0)


def write_sheet(path: str | PathLike[str], rows: list[Tensor]) -> None:
    """Write `rows`, batches (N, C, H, W) in [0, 1], as a PNG.

    A single row of more than eight images, as a generating model makes, is folded into a square.
    """
    if len(rows) == 1 and len(rows[0]) > 8:
        rows = list(rows[0].split(math.ceil(math.sqrt(len(rows[0])))))
    write_image(path, Picture(pixels=sheet(rows)))
