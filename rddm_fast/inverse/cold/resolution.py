"""Resolution: the image made smaller and brought back to its size, collapsed to one matrix for each side.

Interpolation and the small blur are linear and separable, so a step is M_H X M_W^T, and the chain of s steps is
D(X, s) = L_H X L_W^T with L = M_s … M_1.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .degradation import Degradation, Level, Table, check_choice, gaussian, sides

_MODES = {"": "bicubic", "_bicubic": "bicubic", "_bilinear": "bilinear", "_area": "area"}
_SCHEDULES = {
    f"Incremental{mode}{halving}{blur}": (_MODES[mode], bool(halving), bool(blur))
    for mode, halving, blur in product(_MODES, ("", "_factor_2"), ("", "_with_blur"))
}
RESOLUTIONS = tuple(_SCHEDULES)
"""The schedules: the published ones, and the combinations of their parts."""
BLUR_SIGMA = 0.5
"""Sigma of the 3 taps of "_with_blur"."""


class Resolution(Degradation):
    """Interpolation down and, to the nearest, back. Linear, but no blend: D(x, s) must be computed for every s.

    Args:
        size: H and W of the images, or the side of a square.
        T: the number of levels.
        schedule: one of `RESOLUTIONS`. "Incremental": the (i+1)-th step goes down by i pixels; "…_factor_2": to the
            1/2^(i+1) part of the size. "bicubic" (without a name too), "bilinear" or "area" is the way down, without
            antialiasing. "…_with_blur": a Gaussian of 3 taps before and after, with reflected edges.

    Raises:
        ValueError: T below 1, an unknown schedule, or a T at which no pixel is left.
    """

    def __init__(self, size: int | tuple[int, int], T: int, schedule: str = "Incremental_factor_2") -> None:
        super().__init__(T, sides(size))
        check_choice("resolution schedule", schedule, RESOLUTIONS)
        self.schedule = schedule
        self._rows, self._columns = (Table(self._chain(side)) for side in sides(size))

    def _chain(self, side: int) -> Tensor:
        """Return L_0 .. L_T of a side, float64 (T + 1, 1, 1, N, N)."""
        mode, halving, with_blur = _SCHEDULES[self.schedule]
        chain = [torch.eye(side, dtype=torch.float64)]
        for i in range(self.T):
            smaller = side // 2 ** (i + 1) if halving else side - i
            if smaller < 1:
                raise ValueError(
                    f"T is {self.T}: step {i + 1} of {self.schedule} leaves no pixel of {side}; T may be {i} at most"
                )
            step = _there_and_back(side, smaller, mode)
            if with_blur:
                step = _blur(side) @ step @ _blur(side)
            chain.append(step @ chain[-1])
        return torch.stack(chain)[:, None, None]

    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        return self._rows.at(s, x) @ x @ self._columns.at(s, x).mT


def _there_and_back(side: int, smaller: int, mode: str) -> Tensor:
    """Return the matrix of an interpolation to `smaller` pixels and back to the nearest: the identity's image."""
    identity = torch.eye(side, dtype=torch.float64)[None, None]
    down = F.interpolate(identity, size=(smaller, side), mode=mode)
    return F.interpolate(down, size=(side, side), mode="nearest-exact")[0, 0]


def _blur(side: int) -> Tensor:
    """Return the matrix of the 3-tap Gaussian with reflected edges."""
    g = gaussian(torch.arange(-1, 2), BLUR_SIGMA)
    matrix, period = torch.zeros(side, side, dtype=torch.float64), max(1, 2 * side - 2)
    for row, (offset, weight) in product(range(side), zip((-1, 0, 1), g / g.sum(), strict=True)):
        column = (row + offset) % period
        matrix[row, min(column, period - column) if side > 1 else 0] += weight
    return matrix
