"""Noise: Gaussian, of counted photons, and a camera's."""

from __future__ import annotations

import math

import numpy as np

from .degraded import CLEAN, Degraded, FloatImage, Range, clip, rounded
from .jpeg import jpeg
from .kernels import blurred, gaussian


def noise(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    sigma: Range = (0.06, 0.12),
    photons: float = 500.0,
) -> Degraded:
    """Gaussian and shot noise.

    Args:
        sigma: range of the standard deviation of the Gaussian part, drawn once per image.
        photons: number of photons that a value of 1 stands for; the counts follow a Poisson distribution.
    """
    counts = rng.poisson(image * np.float32(photons)).astype(np.float32) / np.float32(photons)
    gaussian = np.float32(rng.uniform(*sigma)) * rng.standard_normal(image.shape, np.float32)
    return Degraded(clip(counts + gaussian))


def camera(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    luma: Range = (0.0, 0.08),
    chroma: Range = (0.0, 0.12),
    grain: Range = (0.3, 2.0),
) -> Degraded:
    """A camera's noise: its colour is rough and reaches over pixels, because demosaicing and denoising have spread it.

    Args:
        luma, chroma: ranges of the standard deviations of brightness and of colour at a value of 1, drawn once per
            image. The noise grows with the square root of the light.
        grain: range of the standard deviation, in pixels, of the Gaussian that spreads the colour.
    """
    light = np.sqrt(np.float32(0.1) + np.float32(0.9) * image)
    grey = rng.standard_normal((*image.shape[:2], 1), np.float32)
    if rng.random() < 0.5:
        grey = _spread(grey, rng.uniform(0.3, 0.8))
    colour = _spread(rng.standard_normal(image.shape, np.float32), rng.uniform(*grain))
    colour -= colour.mean(2, keepdims=True)
    added = np.float32(rng.uniform(*luma)) * grey + np.float32(rng.uniform(*chroma)) * colour
    return Degraded(clip(image + light * added))


def _spread(white: FloatImage, sigma: float) -> FloatImage:
    """Blur white noise, and scale it back to a variance of 1."""
    kernel = gaussian(sigma)
    return blurred(white, kernel) * np.float32(kernel.sum() / math.sqrt((kernel**2).sum()))


def wide_noise(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any noise, to train on: Gaussian with sigma from 0 to 55/255, photons counted, a camera's, and JPEG after it.

    12 % of the images stay clean.
    """
    which = rng.random()
    if which < CLEAN:
        return Degraded(image.copy())
    if which < 0.62:
        # Faint noise is drawn more often: its errors are small, and so is their share of the loss.
        sigma = np.float32(rng.random() ** 1.5 * 55 / 255)
        # Half of them as a file holds them, half as an array does, unclipped, as benchmarks of denoisers add noise.
        noisy = image + sigma * rng.standard_normal(image.shape, np.float32)
        return Degraded(rounded(noisy) if rng.random() < 0.5 else clip(noisy))
    if which < 0.82:
        level = rng.uniform(0, 0.1)
        result = noise(image, rng, sigma=(level, level), photons=math.exp(rng.uniform(math.log(30), math.log(3000))))
    else:
        result = camera(image, rng)
    if rng.random() < 0.25:
        result = jpeg(result.image, rng, quality=(60, 98))
    return Degraded(rounded(result.image))
