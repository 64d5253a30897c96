"""Blur: of a moving camera, out of focus, and Gaussian."""

from __future__ import annotations

import math

import numpy as np

from ..given.blur.blurs import Blur
from .degraded import CLEAN, Degraded, FloatImage, Range, clip, rounded
from .jpeg import jpeg
from .kernels import blurred, disc, line


def blur(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    style: str | None = None,
    size: Range = (5.0, 13.0),
) -> Degraded:
    """Blur by a straight camera motion or by defocus.

    Args:
        style: "motion" or "defocus"; None draws one of the two.
        size: range of the motion's length or of the defocus disc's diameter in pixels, drawn once per image.
    """
    styles = ("motion", "defocus")
    if style is None:
        style = styles[rng.integers(2)]
    if style not in styles:
        raise ValueError(f"unknown blur style {style!r}; choose motion or defocus")
    extent = rng.uniform(*size)
    angle = rng.uniform(0, math.pi)

    kernel = disc(extent) if style == "defocus" else line(extent, angle)
    return Degraded(clip(blurred(image, kernel)))


def wide_blur(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any blur, to train on: Gaussian with sigma to 4 pixels, motion to 25, defocus to 13, half of them with noise.

    One of five is stored as JPEG of quality 50 to 95. 12 % of the images stay clean.

    Raises:
        ImportError: Pillow is not installed.
    """
    if rng.random() < CLEAN:
        return Degraded(image.copy(), blur=Blur())
    form = rng.integers(3)
    if form == 0:
        applied = Blur("gaussian", rng.uniform(0.2, 4))
    elif form == 1:
        applied = Blur("line", rng.uniform(1, 25), rng.uniform(0, math.pi))
    else:
        applied = Blur("disc", rng.uniform(1, 13))
    result = blurred(image, applied.kernel())
    if rng.random() < 0.5:
        result = result + np.float32(rng.uniform(0, 0.012)) * rng.standard_normal(image.shape, np.float32)
    result = rounded(result)
    if rng.random() < 0.2:
        result = jpeg(result, rng, quality=(50, 95)).image
    return Degraded(result, blur=applied)
