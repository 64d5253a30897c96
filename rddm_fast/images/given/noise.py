"""Guess a picture without its noise, by the cosine transform of small windows.

Smooth noise reduction is learnt slowly; this takes no training. What is left to the network is what the windows cannot
tell: long edges, texture, and noise that is not white.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .traces import second_differences
from .windows import cosine_basis, turned

WINDOW = 8
"""Side in pixels of a window."""
STRIDE = 2
"""Pixels between windows. Every pixel lies in 16 of them; in 64, the guess is 0.2 dB better and takes 4 times as long.
"""
THRESHOLD = 2.7
"""In the first pass, coefficients below so many standard deviations of the noise are left out."""
KEPT = 0.3
"""The part of what was taken away that stays, so that the network sees fine texture which was taken for noise."""
BAND = 128
"""Rows that are computed at once: the windows of a whole picture hold 32 times its size."""
HALO = 16
"""Rows around a band that its pixels depend on: the two passes reach 7 each, and a multiple of the stride."""
WINDOWS = 60_000
"""The most windows of a picture that its noise is measured in."""
FLAT = 0.05, 0.87
"""Noise is also measured in this share of the blocks, those with the least detail; what is found there is so much of
the noise."""


def without_noise(picture: Tensor) -> Tensor:
    """Take most of the noise of each picture away, as far as it is white.

    Two passes over windows of brightness and of two differences of colours: coefficients below a threshold are left
    out, and from what that leaves the best factor of each coefficient follows (Wiener's filter). How strong the noise
    is, is measured in each picture, for brightness and colours apart.

    Args:
        picture: (B, C, H, W) in [0, 1].

    Returns:
        The same shape and dtype; equal to the bit if a side is shorter than 10 pixels.
    """
    if min(picture.shape[-2:]) < WINDOW + STRIDE:
        return picture
    colours = turned(picture.float(), back=False)
    smooth = torch.stack([torch.stack([_smoothed(plane, noise_in(plane)) for plane in one]) for one in colours])
    return turned(torch.lerp(smooth, colours, KEPT), back=True).clamp(0, 1).to(picture)


def noise_in(plane: Tensor) -> Tensor:
    """Measure the standard deviation of white noise in a plane (H, W), a scalar.

    Most directions in the space of windows hold noise alone, and the same of it: the variances of the least are those
    whose mean is their median (Chen, Zhu and Heng 2015). A picture that is texture everywhere leaves too few of them,
    so the flattest blocks have a say.
    """
    windows = plane.unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)
    every = max(1, math.isqrt(windows.shape[0] * windows.shape[1] // WINDOWS))
    samples = windows[::every, ::every].reshape(-1, WINDOW**2)
    samples = (samples - samples.mean(0)).double()
    variances = torch.linalg.eigvalsh(samples.T @ samples / len(samples)).clamp(min=0)
    means = variances.cumsum(0) / torch.arange(1, len(variances) + 1, device=plane.device)
    above = (variances[None] > means[:, None]).tril().sum(1)
    below = (variances[None] < means[:, None]).tril().sum(1)
    found = means[above >= below][-1].sqrt().to(plane)
    detail = second_differences(plane[None, None]).square()
    blocks = F.avg_pool2d(detail, min(2 * WINDOW, *detail.shape[-2:]), WINDOW).flatten().sort().values
    return torch.minimum(found, blocks[int(FLAT[0] * (len(blocks) - 1))].sqrt() / FLAT[1])


def _smoothed(plane: Tensor, noise: Tensor) -> Tensor:
    """Take noise of this standard deviation out of a plane (H, W)."""
    height, width = plane.shape
    around = [WINDOW, WINDOW + (WINDOW - width) % STRIDE, WINDOW, WINDOW + (WINDOW - height) % STRIDE]
    framed = F.pad(plane[None, None], around, mode="reflect")[0, 0]
    bands = []
    for top in range(0, len(framed), BAND):
        start = max(0, top - HALO)
        smooth = _filtered(framed[start : top + BAND + HALO], noise)
        bands.append(smooth[top - start : top - start + BAND])
    return torch.cat(bands)[WINDOW : WINDOW + height, WINDOW : WINDOW + width]


def _filtered(band: Tensor, noise: Tensor) -> Tensor:
    basis = cosine_basis(WINDOW).to(band)
    coefficients = _coefficients(band, basis)
    kept = (coefficients.abs() > THRESHOLD * noise).to(band)
    kept[..., 0, 0] = 1  # a window's mean
    first = _overlaid(coefficients * kept, 1 / kept.sum((-1, -2), keepdim=True), basis, band.shape)
    power = _coefficients(first, basis).square()
    factors = power / (power + noise.square()).clamp(min=1e-12)
    factors[..., 0, 0] = 1
    weights = 1 / factors.square().sum((-1, -2), keepdim=True)
    return _overlaid(coefficients * factors, weights, basis, band.shape)


def _coefficients(band: Tensor, basis: Tensor) -> Tensor:
    """Return the cosine transforms of all windows, (rows, columns, WINDOW, WINDOW)."""
    return basis @ band.unfold(0, WINDOW, STRIDE).unfold(1, WINDOW, STRIDE).contiguous() @ basis.T


def _overlaid(coefficients: Tensor, weights: Tensor, basis: Tensor, size: torch.Size) -> Tensor:
    """Lay the windows back where they were; a pixel is the mean of its windows, by their weights."""
    windows = (basis.T @ coefficients @ basis) * weights
    columns = torch.stack([windows, weights.expand_as(windows)]).flatten(1, 2).flatten(2).transpose(1, 2)
    total, weight = F.fold(columns, (size[0], size[1]), WINDOW, stride=STRIDE)[:, 0]
    return total / weight
