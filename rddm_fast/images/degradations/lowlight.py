"""Photographs taken in too little light."""

from __future__ import annotations

import math

import numpy as np

from .degraded import CLEAN, Degraded, FloatImage, Range, clip, rounded


def lowlight(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    exposure: Range = (0.10, 0.30),
    gamma: Range = (1.2, 1.8),
    cast: float = 0.1,
    photons: float = 1000.0,
    read_noise: float = 0.004,
) -> Degraded:
    """A photograph taken in too little light: dark, with a colour cast, shot noise and read noise.

    Args:
        exposure, gamma: ranges, drawn once per image, which becomes exposure * image**gamma.
        cast: each channel is scaled by a factor within 1 ± cast.
        photons: number of photons that a value of 1 stands for; shot noise has variance value / photons.
        read_noise: standard deviation of the noise that does not depend on the light.
    """
    scale = rng.uniform(*exposure) * rng.uniform(1 - cast, 1 + cast, 3)
    dark = scale.astype(np.float32) * image ** np.float32(rng.uniform(*gamma))
    deviation = np.sqrt(dark / np.float32(photons) + np.float32(read_noise**2))
    return Degraded(clip(dark + deviation * rng.standard_normal(image.shape, np.float32)))


def wide_lowlight(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any darkness, to train on: a gamma, less light, both, or less light towards one side, with any white balance.

    The gamma is 1 to 4, the exposure 2.5 % to 100 %, with shot and read noise. 12 % of the images stay clean.
    """
    if rng.random() < CLEAN:
        return Degraded(image.copy())
    form = rng.integers(4)
    gamma = rng.uniform(1, 4) if form == 0 else rng.uniform(1, 2) if form == 1 else 1.0
    exposure = 1.0 if form == 0 else math.exp(rng.uniform(math.log(0.06 if form == 1 else 0.025), 0))
    scale = exposure * rng.uniform(*((0.7, 1.3) if rng.random() < 0.3 else (0.9, 1.1)), 3)
    dark = np.minimum(scale, 1).astype(np.float32) * image ** np.float32(gamma)
    if form == 3:
        dark = dark * _ramp(image.shape[:2], rng)
    photons, read_noise = math.exp(rng.uniform(math.log(200), math.log(10_000))), 0.008 * rng.random() ** 2
    deviation = np.sqrt(dark / np.float32(photons) + np.float32(read_noise**2))
    return Degraded(rounded(dark + deviation * rng.standard_normal(image.shape, np.float32)))


def _ramp(shape: tuple[int, int], rng: np.random.Generator) -> FloatImage:
    """Return (H, W, 1): 1 at one side of a picture of 200 to 600 pixels, and less towards the other."""
    angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(200, 600)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    along = (x * math.cos(angle) + y * math.sin(angle)) / length + rng.uniform(-0.5, 0.5)
    darkest = rng.uniform(0.2, 0.9)
    return (1 - (1 - darkest) * np.clip(along + 0.5, 0, 1)).astype(np.float32)[..., None]
