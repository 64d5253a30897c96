"""Animorphosis and noise: the image dissolves into another one.

    D(x, s) = sqrt(a_s) x + sqrt(1 - a_s) x_end

x_end is the picture of an animal, or normal noise. With x_end known, Algorithm 2 is `ops.reverse_step` with k_t = 1,
k_0 = sqrt(a_{s-1}) - sqrt(a_s), k_noise = sqrt(1 - a_{s-1}) - sqrt(1 - a_s) and epsilon = x_end: a linear form, but no
blend, for the two weights do not add up to 1.
"""

from __future__ import annotations

import copy
import math

from torch import Tensor

from ...ops.inverse.tacos_step import tacos_step
from .degradation import Degradation, Level, Numbers, Resident, check_far_end


def cosine_alphas(T: int, offset: float = 0.008) -> list[float]:
    """Return a_0 = 1 .. a_T of the cosine schedule (Nichol and Dhariwal, 2021), with b at most 0.999."""

    def f(s: int) -> float:
        return math.cos((s / T + offset) / (1 + offset) * math.pi / 2) ** 2

    alphas = [1.0]
    for s in range(1, T + 1):
        alphas.append(alphas[-1] * (1 - min(1 - f(s) / f(s - 1), 0.999)))
    return alphas


class Animorphosis(Degradation):
    """The image dissolves into `x_end`, by the cosine schedule.

    Args:
        T: the number of levels.
        x_end: the far end, of a shape that broadcasts to the images (B, C, H, W); None where it is unknown. Then `D`
            raises, and sampling estimates x_end at every step from x_s and the restored image, as DDIM does (published
            as "ddim").

    Raises:
        ValueError: T below 1.
    """

    def __init__(self, T: int = 200, x_end: Tensor | None = None) -> None:
        super().__init__(T)
        alphas = cosine_alphas(T)
        self._k_0 = Numbers([math.sqrt(a) for a in alphas])
        self._k_end = Numbers([math.sqrt(1 - a) for a in alphas])
        self.x_end = None if x_end is None else Resident(x_end)
        self.estimates = x_end is None

    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        if self.x_end is None:
            raise ValueError("x_end is unknown, so an image cannot be degraded: pass x_end, a picture or normal noise")
        return self._k_0.at(s, x) * x + self._k_end.at(s, x) * self.x_end.like(x)

    def tacos(self, x_s: Tensor, x_0: Tensor, s: int, to: int) -> Tensor:
        if self.x_end is None:
            return super().tacos(x_s, x_0, s, to)  # which says that x_end is unknown
        self._check_change(x_0, s, to)
        k_0, k_end = (k.number(to) - k.number(s) for k in (self._k_0, self._k_end))
        return tacos_step(x_s, x_0, kind="mix", numbers=(k_0, k_end), x_end=self.x_end.like(x_0))

    def at(self, x_s: Tensor, x_0: Tensor, s: int) -> Animorphosis:
        """Return itself, or, if x_end is unknown, the same with the x_end that leads from `x_0` to `x_s`."""
        if not self.estimates:
            return self
        known = copy.copy(self)
        known.x_end = Resident((x_s - self._k_0.at(s, x_s) * x_0) / self._k_end.at(s, x_s))
        return known

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.x_end is not None:
            check_far_end(self.x_end.values, x)
