"""Holes to inpaint, with their mask."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...system.extras import require
from .degraded import Degraded, FloatImage, Range

Point = npt.NDArray[np.float64]
"""(y, x) in pixels."""


def mask(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    style: str | None = None,
    size: Range = (0.25, 0.50),
    strokes: int = 8,
) -> Degraded:
    """Inpainting: image * (1 - mask) + 0.5 * mask, a grey hole.

    Args:
        style: "box" (a rectangle anywhere), "centre" (the middle half in both axes) or "strokes" (thick random
            lines); None draws box or strokes.
        size: range of a box's side divided by the image's, drawn for each of the two sides.
        strokes: number of strokes; each is up to 6 % of the shorter side wide.
    """
    height, width = image.shape[:2]
    if style is None:
        style = ("box", "strokes")[rng.integers(2)]
    hole = np.zeros((height, width), np.float32)
    if style == "centre":
        hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    elif style == "box":
        box_height, box_width = (max(1, round(side * rng.uniform(*size))) for side in (height, width))
        top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
        hole[top : top + box_height, left : left + box_width] = 1
    elif style == "strokes":
        for _ in range(strokes):
            start, end = rng.uniform(0, 1, (2, 2)) * (height, width)
            _draw_line(hole, start, end, max(0.5, rng.uniform(0.01, 0.03) * min(height, width)))
    else:
        raise ValueError(f"unknown mask style {style!r}; choose box, centre or strokes")
    return Degraded(image * (1 - hole[..., None]) + np.float32(0.5) * hole[..., None], hole)


def _draw_line(hole: FloatImage, start: Point, end: Point, radius: float) -> None:
    """Set what lies within `radius` of the line from `start` to `end` to 1."""
    y, x = np.arange(hole.shape[0])[:, None], np.arange(hole.shape[1])[None, :]
    step = end - start
    projected = (y - start[0]) * step[0] + (x - start[1]) * step[1]
    along = np.clip(projected / max(step @ step, 1e-12), 0, 1)
    distance = np.hypot(y - start[0] - along * step[0], x - start[1] - along * step[1])
    hole[distance <= radius] = 1


def wide_mask(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any holes, to train on: curved strokes, scratches, blocks of 4 to 64 pixels and writing.

    A hole is white, black, grey, of any one colour, or noise. The network does not see it: it is given a filling.

    Raises:
        ImportError: Pillow is not installed.
    """
    shape = image.shape[:2]
    hole = np.zeros(shape, np.float32)
    while not hole.any():
        which = rng.random()
        if which < 0.35:
            for _ in range(rng.integers(1, 7)):
                _draw_curve(hole, rng, radius=rng.uniform(0.5, 4) if rng.random() < 0.7 else rng.uniform(4, 12))
        elif which < 0.5:
            for _ in range(rng.integers(3, 25)):
                start = rng.uniform(-0.2, 1.2, 2) * shape
                angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(10, 200)
                end = start + length * np.array([math.sin(angle), math.cos(angle)])
                _draw_line(hole, start, end, rng.uniform(0.5, 1.5))
        elif which < 0.75:
            for _ in range(rng.integers(1, 7)):
                sides = np.exp(rng.uniform(math.log(4), math.log(64), 2)).round().astype(int)
                top, left = rng.integers(1 - sides, shape)
                hole[max(0, top) : top + sides[0], max(0, left) : left + sides[1]] = 1
        else:
            _write(hole, rng)
    filling = rng.integers(5)
    held = rng.random((*shape, 3)) if filling == 4 else rng.random(3) if filling == 3 else (0.0, 0.5, 1.0)[filling]
    return Degraded(np.where(hole[..., None] > 0, np.asarray(held, np.float32), image), hole)


def _draw_curve(hole: FloatImage, rng: np.random.Generator, radius: float) -> None:
    """Draw a brush's stroke: up to eight short lines, each bent a little from the one before."""
    point, angle = rng.uniform(0, 1, 2) * hole.shape, rng.uniform(0, 2 * math.pi)
    for _ in range(rng.integers(2, 9)):
        angle += rng.normal(0, 0.6)
        end = point + rng.uniform(5, 30) * np.array([math.sin(angle), math.cos(angle)])
        _draw_line(hole, point, end, radius)
        point = end


def _write(hole: FloatImage, rng: np.random.Generator) -> None:
    """Write lines of random letters over the picture."""
    image, draw, font = (require(f"PIL.{name}", "images") for name in ("Image", "ImageDraw", "ImageFont"))
    height, width = hole.shape
    page = image.new("L", (width, height))
    size = round(rng.uniform(10, 40))
    letters = np.array(list("ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789      "))
    top = rng.uniform(-size, size)
    while top < height:
        text = "".join(rng.choice(letters, math.ceil(2.5 * width / size)))
        draw.Draw(page).text((rng.uniform(-size, 0), top), text, fill=255, font=font.load_default(size))
        top += size * rng.uniform(1.1, 4)
    hole[np.asarray(page) >= 128] = 1
