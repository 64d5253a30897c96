"""A picture of results beside their ground truth, for looking at the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..system.extras import require
from ..system.files import write_whole

AMPLIFIED = 4  # how much brighter differences are shown
_GAP, _LINE = 8, 16


@dataclass(frozen=True, eq=False)
class Row:
    """One image of a gallery: prediction and target, (3, H, W) in [0, 1], and the numbers of its caption."""

    name: str
    pred: Tensor
    target: Tensor
    numbers: Mapping[str, float]


def write_gallery(path: str | PathLike[str], rows: Sequence[Row], *, side: int = 256) -> None:
    """A PNG with a row for each of `rows`: prediction, truth, and their difference, four times as bright.

    Images larger than `side` pixels are scaled down to fit. The file appears whole or not at all.
    """
    draw_module, fonts = require("PIL.ImageDraw", "images"), require("PIL.ImageFont", "images")
    image_module = require("PIL.Image", "images")
    font = fonts.load_default(size=12)
    titles = ("prediction", "truth", f"difference x{AMPLIFIED}")
    tiles = [[_tile(image_module, image, side) for image in _images(row)] for row in rows]
    captions = [_caption(row) for row in rows]
    width = max([3 * side + 4 * _GAP, *(int(font.getlength(line)) + 2 * _GAP for c in captions for line in c)])
    heights = [
        len(caption) * _LINE + max(tile.height for tile in line) + _GAP
        for caption, line in zip(captions, tiles, strict=True)
    ]
    canvas = image_module.new("RGB", (width, _GAP + _LINE + sum(heights)), "white")
    draw = draw_module.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (side + _GAP), _GAP // 2), title, "black", font)
    top = _GAP + _LINE
    for caption, line, height in zip(captions, tiles, heights, strict=True):
        for number, text in enumerate(caption):
            draw.text((_GAP, top + number * _LINE), text, "black", font)
        for column, tile in enumerate(line):
            canvas.paste(tile, (_GAP + column * (side + _GAP), top + len(caption) * _LINE))
        top += height
    write_whole(path, lambda unfinished: canvas.save(unfinished, "PNG"))


def _images(row: Row) -> tuple[Tensor, Tensor, Tensor]:
    return row.pred, row.target, (row.pred - row.target).abs() * AMPLIFIED


def _tile(image_module: Any, image: Tensor, side: int) -> Any:
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    tile = image_module.fromarray(values.contiguous().numpy())
    tile.thumbnail((side, side))
    return tile


def _caption(row: Row) -> list[str]:
    """The name, and the numbers four to a line."""
    numbers = [f"{name} {value:.4g}" for name, value in row.numbers.items()]
    return [row.name, *("   ".join(numbers[start : start + 4]) for start in range(0, len(numbers), 4))]
