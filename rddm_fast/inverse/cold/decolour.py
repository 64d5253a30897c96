"""Decolour: colours pulled towards grey, collapsed to one number for every level.

    D(x, s) = f_bar_s x + (1 - f_bar_s) grey(x)      a blend with alpha_bar_s = 1 - f_bar_s and I_in = grey(x)

grey is the mean of the channels. A step multiplies a pixel's colours by f I + (1 - f) J / C, J all ones; the product of
such matrices has the product of the factors f. D keeps the grey of an image, so if the restorer does too, I_in is
grey(x_T) throughout and Algorithm 2 is RDDM without noise.
"""

from __future__ import annotations

from torch import Tensor

from ...ops.inverse.tacos_step import tacos_step
from .degradation import Blend, Level, Numbers, check_choice

DECOLOURS = ("Linear", "Constant")
"""The published schedules (Cold Diffusion, decolorization)."""


class Decolour(Blend):
    """Colours fade to grey.

    Args:
        T: the number of levels.
        schedule: "Linear": f_bar_s = 1 - s / T; "Constant": f_bar_s = factor^s.
        factor: the share of colour that a step of "Constant" leaves, from 0 to 1.
        total_remove: the last level has no colour at all; "Linear" ends so in any case.

    Raises:
        ValueError: T below 1, an unknown schedule, or a factor outside 0 to 1.
    """

    def __init__(
        self, T: int = 20, schedule: str = "Linear", *, factor: float = 0.9, total_remove: bool = False
    ) -> None:
        super().__init__(T)
        check_choice("decolour schedule", schedule, DECOLOURS)
        if not 0 <= factor <= 1:
            raise ValueError(f"factor is {factor}: it must be between 0 (grey at once) and 1 (no change)")
        f_bar = [1 - s / T if schedule == "Linear" else factor**s for s in range(T + 1)]
        if total_remove:
            f_bar[T] = 0.0
        self._alpha_bar = Numbers([1 - f for f in f_bar])

    def alpha_bar(self, s: Level, like: Tensor) -> Tensor | float:
        """Return 1 - f_bar_s."""
        return self._alpha_bar.at(s, like)

    def I_in(self, x: Tensor) -> Tensor:
        """Return the mean of the channels, (B, 1, H, W)."""
        return x.mean(1, keepdim=True)

    def tacos(self, x_s: Tensor, x_0: Tensor, s: int, to: int) -> Tensor:
        self._check_change(x_0, s, to)
        gained = self._alpha_bar.number(to) - self._alpha_bar.number(s)
        return tacos_step(x_s, x_0, kind="grey", numbers=(-gained, gained))

    def published_level(self, s: int) -> int:
        """Return s - 1: the published sampler degrades as often as the time says that the network is told."""
        return max(s - 1, 0)
