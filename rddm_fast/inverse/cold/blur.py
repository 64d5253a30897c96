"""Blur: Gaussian kernels one after another, collapsed to one multiplication in the frequency domain.

A chain of convolutions with circular edges is one multiplier, the product of the kernels' Fourier transforms. With
reflected edges it is the same on the image mirrored at its edges, whose period is 2N - 2. The kernels are symmetric and
separable, so a multiplier is real, the outer product of a row for the height and one for the width. The tables hold
about T (H + W) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .degradation import Degradation, Level, Resident, check_choice, check_positive, gaussian, sides


@dataclass(frozen=True)
class _Schedule:
    """The kernels of a schedule: `kernel(i, std, taps)` gives the taps and the sigma of the (i+1)-th one."""

    kernel: Callable[[int, float, int], tuple[int, float]]
    reflect: bool = False
    chained: bool = True


def _exponential(i: int, std: float, taps: int) -> tuple[int, float]:
    return taps, math.exp(min(std * i, 100.0))  # beyond a sigma of e^100 every kernel is flat


_SCHEDULES = {
    "Incremental": _Schedule(lambda i, std, taps: (taps, std * (i + 1))),
    "Constant": _Schedule(lambda i, std, taps: (taps, std)),
    "Constant_reflect": _Schedule(lambda i, std, taps: (taps, std), reflect=True),
    "Exponential": _Schedule(_exponential),
    "Exponential_reflect": _Schedule(_exponential, reflect=True),
    "Special_6": _Schedule(lambda i, std, taps: (11, i / 100 + 0.35), reflect=True),
    "Individual_Incremental": _Schedule(lambda i, std, taps: (2 * i + 1, 2.0 * (2 * i + 1)), chained=False),
}
BLURS = tuple(_SCHEDULES)
"""The published schedules (Cold Diffusion, deblurring)."""


def kernel(schedule: str, i: int, std: float = 0.1, taps: int = 3) -> Tensor:
    """Return the (i+1)-th kernel of a schedule, float64 (taps,), of sum 1; in two dimensions it is the outer product.

    Raises:
        ValueError: an unknown schedule, an even number of taps, or a std that is not above 0.
    """
    check_choice("blur schedule", schedule, BLURS)
    check_positive("std", std)
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps is {taps}: a kernel has an odd number of taps, so that it has a middle")
    taps, sigma = _SCHEDULES[schedule].kernel(i, std, taps)
    g = gaussian(torch.arange(taps) - taps // 2, sigma)
    return g / g.sum()


class Blur(Degradation):
    """Gaussian blur, stronger with s. Linear, but no blend: D(x, s) must be computed for every s.

    Args:
        size: H and W of the images, or the side of a square.
        T: the number of levels.
        schedule: one of `BLURS`. "Individual_Incremental" is one kernel of 2s - 1 taps, its sigma twice that; the
            others are chains of s kernels.
        std: the sigma of "Constant", the unit of "Incremental", the rate of "Exponential".
        taps: the kernels' number of taps along a side; "Special_6" and "Individual_Incremental" have their own.
        discrete: replace D(., T) by its mean colour, so that sampling starts from one colour.

    Raises:
        ValueError: T below 1, an unknown schedule, an even number of taps, or a std that is not above 0.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        T: int,
        schedule: str = "Incremental",
        *,
        std: float = 0.1,
        taps: int = 3,
        discrete: bool = False,
    ) -> None:
        super().__init__(T, sides(size))
        kernels = [kernel(schedule, i, std, taps) for i in range(T)]
        self.schedule, self.discrete = schedule, discrete
        self.reflect = _SCHEDULES[schedule].reflect
        height, width = sides(size)
        self._rows = Resident(self._multipliers(kernels, height).unsqueeze(2))
        width_table = self._multipliers(kernels, width)
        self._columns = Resident(width_table[:, : width_table.shape[1] // 2 + 1].unsqueeze(1))  # what rfft2 keeps

    def _multipliers(self, kernels: list[Tensor], side: int) -> Tensor:
        """Return the Fourier transforms of D(., s) along a side, float64 (T + 1, period)."""
        period = max(1, 2 * side - 2) if self.reflect else side
        frequency = torch.arange(period, dtype=torch.float64) * (2 * math.pi / period)
        single = torch.ones(self.T + 1, period, dtype=torch.float64)
        for i, g in enumerate(kernels):
            offsets = torch.arange(len(g), dtype=torch.float64) - len(g) // 2
            single[i + 1] = torch.cos(frequency[:, None] * offsets) @ g
        return single.cumprod(0) if _SCHEDULES[self.schedule].chained else single

    def _multiplier(self, s: Level, x: Tensor) -> Tensor:
        table = self._rows.like(x)[s] * self._columns.like(x)[s]
        return table.unsqueeze(1) if isinstance(s, Tensor) else table

    def _filtered(self, x: Tensor, multiplier: Tensor) -> Tensor:
        """Multiply the frequencies of `x`, or of its mirrored image, by `multiplier`."""
        height, width = x.shape[-2:]
        if self.reflect:
            x = torch.cat([x, x[..., 1:-1, :].flip(-2)], -2)
            x = torch.cat([x, x[..., 1:-1].flip(-1)], -1)
        blurred = torch.fft.irfft2(torch.fft.rfft2(x) * multiplier, s=x.shape[-2:])
        return blurred[..., :height, :width]

    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        blurred = self._filtered(x, self._multiplier(s, x))
        if not self.discrete:
            return blurred
        mean = blurred.mean((-2, -1), keepdim=True).expand_as(blurred)
        if isinstance(s, Tensor):
            return torch.where(s.view(-1, 1, 1, 1) == self.T, mean, blurred)
        return mean if s == self.T else blurred

    def change(self, x: Tensor, s: int, to: int) -> Tensor:
        if self.discrete and self.T in (s, to):
            return super().change(x, s, to)
        self.check(x)
        for level in (s, to):
            self._checked(level, x)
        # Subtract the multipliers, not the images: one transform there and back instead of two.
        return self._filtered(x, self._multiplier(to, x) - self._multiplier(s, x))

    def published_level(self, s: int) -> int:
        """Return T for s = 0 of "Individual_Incremental", which looks up kernel -1, the strongest; else s."""
        return self.T if s == 0 and self.schedule == "Individual_Incremental" else s
