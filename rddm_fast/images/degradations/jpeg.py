"""JPEG's blocks, rings and lost colour."""

from __future__ import annotations

import io

import numpy as np

from ...system.extras import require
from .degraded import CLEAN, Degraded, FloatImage, Range


def jpeg(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    quality: Range = (10, 60),
    subsampling: int | None = None,
) -> Degraded:
    """The photograph as libjpeg stores it.

    Args:
        quality: range of the quality, 1 to 95; drawn once per image.
        subsampling: 0 keeps the colour of every pixel (4:4:4), 2 of every fourth (4:2:0); None draws one of the two.

    Raises:
        ImportError: Pillow is not installed.
    """
    pillow = require("PIL.Image", "images")
    level = round(rng.uniform(*quality))
    if subsampling is None:
        subsampling = 2 * int(rng.integers(2))
    stored = io.BytesIO()
    pixels = np.round(image * np.float32(255)).astype(np.uint8)
    pillow.fromarray(pixels).save(stored, "jpeg", quality=level, subsampling=subsampling)
    with pillow.open(stored) as opened:
        return Degraded(np.asarray(opened.convert("RGB"), np.float32) / np.float32(255))


def wide_jpeg(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any JPEG, to train on: of quality 5 to 95, one in ten stored twice, with another grid. 12 % stay clean."""
    if rng.random() < CLEAN:
        return Degraded(image.copy())
    result = image
    if rng.random() < 0.1 and min(image.shape[:2]) > 8:
        top, left = rng.integers(8, size=2)
        result = result.copy()
        result[top:, left:] = jpeg(result[top:, left:], rng, quality=(20, 95)).image
    return jpeg(result, rng, quality=(5, 95))
