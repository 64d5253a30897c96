"""Point-symmetric kernels of blur and streaks, and convolution with them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .degraded import FloatImage

Kernel = npt.NDArray[np.float64]


def line(length: float, angle: float, width: float = 1.0) -> Kernel:
    """Return a straight line through the middle, 1 on it and falling to 0 within a pixel; length and width in pixels.

    The angle is in radians, from the horizontal towards the top.
    """
    y, x = _grid(max(length, width))
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    return np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(width / 2 + 0.5 - across, 0, 1)


def disc(diameter: float) -> Kernel:
    """Return a disc, 1 inside and falling to 0 within a pixel; the diameter in pixels."""
    y, x = _grid(diameter)
    return np.clip(diameter / 2 + 0.5 - np.hypot(x, y), 0, 1)


def gaussian(sigma: float) -> Kernel:
    """Return a Gaussian of height 1, cut off at three standard deviations; `sigma` in pixels, above 0."""
    y, x = _grid(6 * sigma)
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


def _grid(extent: float) -> tuple[Kernel, Kernel]:
    radius = math.ceil(extent / 2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    return y, x


def blurred(image: FloatImage, kernel: Kernel) -> FloatImage:
    """Convolve each channel of (H, W, C) with a kernel of odd size, scaled to a sum of 1; the border is mirrored."""
    radius = kernel.shape[0] // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    return convolved(padded, kernel / kernel.sum())


def convolved(image: FloatImage, kernel: Kernel) -> FloatImage:
    """Convolve (H, W, C) with a kernel of odd size 2 r + 1; what is returned lacks r pixels at every border."""
    radius = kernel.shape[0] // 2
    size = image.shape[:2]
    spectrum = np.fft.rfft2(image, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    full = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return full[2 * radius :, 2 * radius :].astype(np.float32)
