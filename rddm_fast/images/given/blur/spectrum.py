"""The power spectrum of a picture, and what it would be of a photograph that has been blurred.

The power of a sharp photograph falls with the frequency about as its power -2.2, more in some directions than in others
(Field, "Relations between the statistics of natural images and the response properties of cortical cells", JOSA A
1987). A blur multiplies it by the square of its transfer function, and noise is added to all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .blurs import Blur, candidates

WINDOW = 128
"""The spectrum is the mean of those of overlapping windows of this side in pixels."""
QUANTISED = 1 / 12 / 65535**2 / 3
"""Variance of the grey of a picture that was rounded to 16 bits, the least noise there is: three rounded channels."""
_FALL, _FALLS = 2.2, 0.35
"""The exponent of a photograph and its standard deviation."""
_TURNS = 0.5
"""Standard deviation of the terms by direction."""
_EXPECTED = 1 / 104
"""These expectations weigh as much as this part of the frequencies."""
_SCALE = 0.7
"""Residuals above this, in natural logarithms, count less: a lattice in the picture is no blur."""
_ROUNDS = 4
_TOGETHER = 32


def terms(height: int, width: int) -> Iterator[Tensor]:
    """Make the terms of a photograph's log-power at the frequencies of `torch.fft.rfft2`, (height, width // 2 + 1).

    They are a constant, the logarithm of the frequency, and the cosine and sine of twice and four times its direction.
    What has no frequency gets half of the lowest one.
    """
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    square = (fy.square() + fx.square()).clamp(min=(0.5 / max(height, width)) ** 2)
    yield torch.ones_like(square)
    # The constant is the power at exp(-1.5) cycles per pixel, so that it hardly depends on the exponent.
    yield -0.5 * square.log() - 1.5
    cosine, sine = (fx.square() - fy.square()) / square, 2 * fx * fy / square
    yield cosine
    yield sine
    yield 2 * cosine.square() - 1
    yield 2 * sine * cosine


def photograph_power(powers: Tensor, height: int, width: int) -> Tensor:
    """Return the power of a sharp photograph at the frequencies of `torch.fft.rfft2`, from factors of `terms`."""
    total = torch.zeros(height, width // 2 + 1)
    for factor, term in zip(powers.tolist(), terms(height, width), strict=True):
        total.add_(term, alpha=factor)
    return total.exp_()


@cache
def _measured() -> tuple[Tensor, Tensor]:
    """Which of the window's frequencies are compared, not the lowest, nor the corners, nor any twice; and their terms.

    Returns:
        (WINDOW (WINDOW // 2 + 1),) booleans; (frequencies, 6).
    """
    fy, fx = torch.fft.fftfreq(WINDOW)[:, None], torch.fft.rfftfreq(WINDOW)[None]
    radius = torch.hypot(fy, fx)
    used = ((radius > 3.5 / WINDOW) & (radius < 0.5) & ((fx > 0) | (fy > 0))).flatten()
    return used, torch.stack([term.flatten()[used] for term in terms(WINDOW, WINDOW)], 1)


def power_spectrum(grey: Tensor) -> Tensor:
    """Return the power of (H, W) at the frequencies of one window; white noise has its variance everywhere.

    A picture that is smaller than a window is mirrored.
    """
    grey = mirrored(grey, 0, [max(0, WINDOW - side) for side in grey.shape])
    wave = 0.5 - 0.5 * torch.cos(2 * math.pi * (torch.arange(WINDOW) + 0.5) / WINDOW)
    weight = wave[:, None] * wave
    weight = weight / weight.square().sum().sqrt()
    total, count = torch.zeros(WINDOW, WINDOW // 2 + 1), 0
    for top in _starts(grey.shape[0]):
        lefts = _starts(grey.shape[1])
        windows = torch.stack([grey[top : top + WINDOW, left : left + WINDOW] for left in lefts])
        mean = (windows * weight.square()).sum((1, 2), keepdim=True)
        total += torch.fft.rfft2((windows - mean) * weight).abs().square().sum(0)
        count += len(lefts)
    return total.div(count).flatten()[_measured()[0]]


def _starts(length: int) -> list[int]:
    count = max(1, math.ceil((length - WINDOW) / (WINDOW // 2)) + 1)
    return [round(number * (length - WINDOW) / max(1, count - 1)) for number in range(count)]


def mirrored(image: Tensor, before: int, after: Sequence[int]) -> Tensor:
    """Extend (H, W) by `before` pixels at the top and left and `after` (bottom, right), mirrored as often as needed."""
    for axis, (side, more) in enumerate(zip(image.shape, after, strict=True)):
        position = torch.arange(-before, side + more, device=image.device) % (2 * side)
        image = image.index_select(axis, torch.where(position < side, position, 2 * side - 1 - position))
    return image


@dataclass(frozen=True)
class Fit:
    """How a spectrum is explained by several blurs.

    Attributes:
        costs: (blurs,); smaller is better.
        powers: (blurs, 6), factors of `terms` that give the sharp photograph's log-power.
        noise: (blurs,), the variance of the noise in grey.
    """

    costs: Tensor
    powers: Tensor
    noise: Tensor


def fitted(spectrum: Tensor, left: Tensor, floor: float = QUANTISED, every: int = 1) -> Fit:
    """Fit the photograph's power and the noise to a `power_spectrum`, for each of several blurs.

    Args:
        spectrum: (frequencies,).
        left: (blurs, frequencies), as `left_by` returns it.
        floor: noise of at least this variance is added to the picture's, so that what is weaker than it does not count.
        every: one of so many frequencies is compared.
    """
    basis, logarithm = _measured()[1][::every], spectrum[::every].add(floor).log()
    # The slopes of all candidates at all frequencies are 122 MB.
    parts = [_fitted(basis, logarithm, part[:, ::every].square(), floor) for part in left.split(_TOGETHER)]
    costs, found = (torch.cat(part) for part in zip(*parts, strict=True))
    return Fit(costs, found[:, :6], found[:, 6].exp())


def _fitted(basis: Tensor, logarithm: Tensor, left: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return (blurs,) costs and (blurs, 7) factors, the last the logarithm of the noise, by Gauss and Newton's method.

    Args:
        basis: (frequencies, 6).
        logarithm: (frequencies,), of the power.
        left: (blurs, frequencies), the part of the power that a blur leaves.
        floor: the least noise.
    """
    least = math.log(floor)
    lowest, highest = basis[:, 1] > 0.6, basis[:, 1] < -0.6
    noise = logarithm[highest].quantile(0.2).clamp(min=least)
    expected = torch.tensor([0.0, _FALL, 0, 0, 0, 0, noise])
    weight = torch.tensor([0.0, 1 / _FALLS**2, *[1 / _TURNS**2] * 4, 0.01]) * _EXPECTED * len(basis)
    found = expected.repeat(len(left), 1)
    found[:, 0] = (logarithm - (left + 1e-4).log() - _FALL * basis[:, 1])[:, lowest].median(1).values
    for _ in range(_ROUNDS):
        residual, share = _residual(logarithm, basis, left, found)
        trust = 1 / (1 + (residual / _SCALE).square())
        slopes = torch.cat([share[..., None] * basis, (1 - share)[..., None]], 2)
        normal = (slopes * trust[..., None]).transpose(1, 2) @ slopes + torch.diag(weight)
        towards = (slopes * (residual * trust)[..., None]).sum(1) + weight * (expected - found)
        found = found + torch.linalg.solve(normal + 1e-3 * torch.eye(7), towards).clamp(-1.5, 1.5)
        found[:, 6] = found[:, 6].clamp(min=least)
    residual, _ = _residual(logarithm, basis, left, found)
    unlikely = (weight * (expected - found).square())[:, :6].sum(1) / (2 * len(basis))
    return (residual / _SCALE).square().log1p().mean(1) + unlikely, found


def _residual(logarithm: Tensor, basis: Tensor, left: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return (blurs, frequencies): what the model lacks, and the photograph's share of its power."""
    photograph = (found[:, :6] @ basis.T).exp() * left
    power = photograph + found[:, 6:].exp()
    return logarithm - power.log(), photograph / power


def left_by(blurs: Sequence[Blur]) -> Tensor:
    """Return how much each blur leaves of the frequencies of a `power_spectrum`, (blurs, frequencies)."""
    return torch.stack([blur.transfer(WINDOW, WINDOW).flatten()[_measured()[0]] for blur in blurs])


@cache
def left_by_candidates() -> Tensor:
    """Return what `left_by` returns for all candidates: 17 MB, kept as they take most of a second."""
    return left_by(candidates())
