"""Restore large images in overlapping tiles, so that memory and attention cost no more than for one tile.

Attention at the lowest resolution costs the square of the number of pixels: a 24-megapixel photograph restored
whole would take hours and all memory. Tiles overlap and are blended by linear ramps. Each sees its part of the
same noise image, so neighbours agree where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def check_overlap(tile: int, overlap: int) -> None:
    """Raise ValueError for an overlap that is negative or not less than the tile."""
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be 0 or more and less than tile={tile}, not {overlap}")


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along `length` pixels: evenly spread, overlapping by at least `overlap` pixels."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(length: int, overlap: int) -> Tensor:
    """Return weights along a tile's side, which rise from both ends to 1 within `overlap` pixels and are never 0."""
    position = torch.arange(length)
    edge = torch.minimum(position, length - 1 - position) + 1
    return (edge / (overlap + 1)).clamp(max=1.0)


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
    boxes = [(top, left) for top in starts(height, tile, overlap) for left in starts(width, tile, overlap)]
    result, weights = torch.zeros_like(images[0]), torch.zeros_like(images[0][0, 0])
    h, w = min(tile, height), min(tile, width)
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
