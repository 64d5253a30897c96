"""Shadows, with a mask of where the photograph was changed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from .degraded import CLEAN, Degraded, FloatImage, Range, rounded

Distance = npt.NDArray[np.float64]


def shadow(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    darkness: Range = (0.45, 0.70),
    size: Range = (0.25, 0.50),
    softness: float = 0.015,
) -> Degraded:
    """A soft-edged polygon of shadow. The mask is 1 inside the polygon's edge, which is the middle of the soft one.

    Args:
        darkness: range of the fraction of light that the shadow takes away, drawn once per image. Skylight still
            reaches a shadow, so red loses 10 % more than this fraction and blue 10 % less.
        size: range of the distance from the polygon's centre to its sides, divided by the image's longer side.
        softness: half the edge's width, divided by the longer side.
    """
    longer = max(image.shape[:2])
    taken = rng.uniform(*darkness) * np.array([1.1, 1.0, 0.9])
    inside = _polygon(image.shape[:2], rng, centre=(0.25, 0.75), size=(size[0] * longer, size[1] * longer))
    soft = np.clip(0.5 + inside / (2 * softness * longer), 0, 1)
    attenuation = 1 - soft[..., None] * np.minimum(taken, 0.98)
    return Degraded(image * attenuation.astype(np.float32), (inside >= 0).astype(np.float32))


def _polygon(shape: tuple[int, int], rng: np.random.Generator, *, centre: Range, size: Range) -> Distance:
    """Return the distance to a random polygon's edge in pixels, positive inside; float64 (H, W).

    Args:
        shape: height and width.
        rng: the source of every random choice.
        centre: range of the polygon's centre, divided by the height and the width.
        size: range of the distance from the centre to the sides, in pixels.
    """
    sides = int(rng.integers(3, 7))
    centre_y, centre_x = rng.uniform(*centre, 2) * shape
    directions = 2 * math.pi * (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) / sides
    distances = rng.uniform(*size, sides)
    y = np.arange(shape[0])[:, None] - centre_y
    x = np.arange(shape[1])[None, :] - centre_x
    inside = np.full(shape, np.inf)
    for direction, distance in zip(directions, distances, strict=True):
        np.minimum(inside, distance - (x * math.cos(direction) + y * math.sin(direction)), out=inside)
    return inside


def _dapples(shape: tuple[int, int], rng: np.random.Generator) -> Distance:
    """Return what `_polygon` returns, roughly, for the shade of leaves: waves of 20 to 200 pixels that add up."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = np.zeros(shape)
    lengths = np.exp(rng.uniform(math.log(20), math.log(200), 6))
    for length in lengths:
        angle, phase = rng.uniform(0, 2 * math.pi, 2)
        field += np.cos(2 * math.pi / length * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    # The slope of six waves is about sqrt(3) 2 pi / length: what is divided by it is near a distance in pixels.
    return (field - rng.uniform(-1, 2)) * np.median(lengths) / (math.sqrt(3) * 2 * math.pi)


def wide_shadow(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any shadows, to train on: one to three polygons or leaves, hard to soft, faint to deep, of any tint.

    The mask ends where the soft edge does or within it, grown by up to 8 pixels or shrunk by up to 3, as a hand draws
    it. 12 % of the images stay clean under their mask.
    """
    shape = image.shape[:2]
    soft = np.zeros(shape)
    for _ in range(rng.integers(1, 4)):
        leaves = rng.random() < 0.25
        inside = _dapples(shape, rng) if leaves else _polygon(shape, rng, centre=(-0.3, 1.3), size=(8.0, 120.0))
        softness = 0.5 * math.exp(rng.uniform(0, math.log(24)))
        soft = np.maximum(soft, np.clip(0.5 + inside / (2 * softness), 0, 1))
    mask = grown((soft > max(0, rng.uniform(-0.6, 0.6))).astype(np.float32), int(rng.integers(-3, 9)))
    if rng.random() < CLEAN:
        return Degraded(image.copy(), mask, taken=np.zeros(3))
    taken = np.minimum(rng.uniform(0, 0.85) * rng.uniform(0.85, 1.15, 3), 0.95)
    attenuation = 1 - soft[..., None] * taken
    return Degraded(rounded(image * attenuation.astype(np.float32)), mask, taken=taken)


def grown(mask: FloatImage, pixels: int) -> FloatImage:
    """Return a mask (H, W) grown by so many pixels to every side, or shrunk if `pixels` is negative."""
    side = 2 * abs(pixels) + 1
    given = torch.from_numpy(mask if pixels >= 0 else 1 - mask)[None, None]
    spread = torch.nn.functional.max_pool2d(given, side, 1, side // 2)[0, 0].numpy()
    return spread if pixels >= 0 else 1 - spread
