"""Restore large images in overlapping tiles, so that memory and attention cost no more than for one tile.

Attention at the lowest resolution costs the square of the number of pixels: a 24-megapixel photograph restored
whole would take hours and all memory. Tiles overlap and are blended by half waves of a cosine. Each sees its part of
the same noise image, so neighbours agree where they meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TILE = 256
"""The greatest side of a tile in pixels, unless the user says otherwise. On a CPU tiles of 512 take 1.5 times as long
for the same gain in decibels; those of 192 and 128 save nothing, as they overlap more (`rddm-fast bench tiles`)."""
OVERLAP = 16
"""Pixels by which tiles overlap at least, unless the user says otherwise."""
MULTIPLE = 8
"""Networks of four sizes halve a side three times: other sides are padded."""


def check_overlap(tile: int, overlap: int) -> None:
    """Raise ValueError for an overlap that is negative or not less than the tile."""
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be 0 or more and less than tile={tile}, not {overlap}")


def cut(length: int, tile: int, overlap: int) -> tuple[int, list[int]]:
    """Cut `length` pixels into as few equal parts as can be, which overlap by at least `overlap` pixels.

    Returns:
        The parts' length, at most `tile` and no larger than they need, in multiples of `MULTIPLE` if there are several;
        and where they begin, evenly spread.
    """
    if length <= tile:
        return length, [0]
    count = -(-(length - overlap) // (tile - overlap))
    needed = -(-(length + (count - 1) * overlap) // count)
    side = min(tile, -(-needed // MULTIPLE) * MULTIPLE)
    return side, [round(i * (length - side) / (count - 1)) for i in range(count)]


def _ramp(length: int, overlap: int) -> Tensor:
    """Return weights along a tile's side: they rise from both ends to 1 within `overlap` pixels and are never 0.

    Those of two tiles add up to 1 where they overlap. A ramp of straight lines starts with a
    jump, which is seen as a seam (tests/restoration/test_tiles.py).
    """
    if overlap == 0:
        return torch.ones(length)
    position = torch.arange(length)
    edge = torch.minimum(position, length - 1 - position) + 0.5
    return torch.sin(math.pi / 2 * (edge / overlap).clamp(max=1.0)) ** 2


def tiled(
    restore: Callable[[Sequence[Tensor]], Tensor],
    images: Sequence[Tensor],
    tile: int,
    overlap: int,
    advance: Callable[[int, int], None] | None = None,
    batch: int = 1,
) -> Tensor:
    """Apply `restore` to every tile of `images` and blend the results.

    Args:
        restore: a function of the same tiles of each of `images`, (B n, C, h, w), that returns the first restored.
        images: tensors (B, C, H, W), all of one height and width.
        tile: largest side of a tile in pixels.
        overlap: least number of pixels by which neighbours overlap; less than `tile`.
        advance: called after each call of `restore` with the number of tiles done and the number in all.
        batch: n, the number of tiles that are restored together; the last call may have fewer. All are of one size.

    Returns:
        The restored image, of the shape of `images[0]`.

    Raises:
        ValueError: an overlap that is negative or not less than the tile.
    """
    check_overlap(tile, overlap)
    height, width = images[0].shape[-2:]
    (h, tops), (w, lefts) = cut(height, tile, overlap), cut(width, tile, overlap)
    boxes = [(top, left) for top in tops for left in lefts]
    result, weights = torch.zeros_like(images[0]), torch.zeros_like(images[0][0, 0])
    weight = (_ramp(h, overlap)[:, None] * _ramp(w, overlap)).to(result)
    for first in range(0, len(boxes), batch):
        together = boxes[first : first + batch]
        # Restore some tiles.
        restored = restore(
            [torch.cat([image[..., top : top + h, left : left + w] for top, left in together]) for image in images]
        )

        # Blend them in.
        for (top, left), part in zip(together, restored.chunk(len(together)), strict=True):
            result[..., top : top + h, left : left + w] += weight * part
            weights[top : top + h, left : left + w] += weight
        if advance is not None:
            advance(first + len(together), len(boxes))
    return result / weights
