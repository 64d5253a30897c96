"""The steps of DDRM and DDNM: pairs of DDPM's indices with their coefficients, as Python floats in float64.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) epsilon        a_t = prod_{i <= t} (1 - b_i), a_{-1} = 1

RDDM writes the same with alpha_bar = 1 - sqrt(a_t) and beta_bar = sqrt(1 - a_t) (`theory.ddim`). DDRM's paper divides
by sqrt(a_t) and calls the noise of x_t / sqrt(a_t) the level Sigma_t. `solver_indices` gives the indices of a plain
walk, `travel.visited` adds the time travel, and `solver_steps` makes the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ..theory.ddim import is_converted
from ..theory.schedule import Schedule
from ..theory.steps import step_indices

Predict = Callable[[Tensor, int], Tensor]
"""The prior: takes x_t (B, C, H, W) in [-1, 1] and its index t; returns the noise epsilon, of the same shape."""
Draw = Callable[[], Tensor]
"""Returns the next standard normal draw, as an image (B, C, H, W)."""

INDEX_RULES = ("exact", "ddrm", "ddnm")
"""How the indices visited are chosen; see `solver_indices`."""


@dataclass(frozen=True)
class SolverStep:
    """One step from index `t` to index `s`, down to a cleaner image (s < t) or back up (s > t).

    Attributes:
        a_t, a_s: DDPM's products at both indices; 1 at s = -1, the clean image.
    """

    t: int
    s: int
    a_t: float
    a_s: float

    @property
    def up(self) -> bool:
        """Whether the step travels back to a noisier image."""
        return self.s > self.t

    @property
    def root_a_t(self) -> float:
        return self.a_t**0.5

    @property
    def root_a_s(self) -> float:
        return self.a_s**0.5

    @property
    def sigma_t(self) -> float:
        """The deviation of the noise in x_t, sqrt(1 - a_t)."""
        return (1.0 - self.a_t) ** 0.5

    @property
    def sigma_s(self) -> float:
        """The deviation of the noise in x_s, sqrt(1 - a_s)."""
        return (1.0 - self.a_s) ** 0.5

    @property
    def Sigma_t(self) -> float:
        """DDRM's noise level at t: the deviation of the noise in x_t / sqrt(a_t)."""
        return self.sigma_t / self.root_a_t

    @property
    def Sigma_s(self) -> float:
        """DDRM's noise level at s."""
        return self.sigma_s / self.root_a_s


OnStep = Callable[[int, SolverStep, Tensor], None]
"""Called after every step with the step's number, the step and the image (B, C, H, W) in [-1, 1]."""


def solver_indices(timesteps: int, count: int, rule: str = "exact") -> list[int]:
    """Return the indices visited, in descending order, followed by -1.

    Args:
        timesteps: T, the number of indices of the schedule.
        count: the number of steps.
        rule: "exact" visits T - 1 first and spaces `count` indices evenly, whatever the count. "ddrm" is DDRM's
            published rule, range(0, T, T // count) backwards: 20 of 1000 start at 950, and a count that does not divide
            T gives more steps (33 give 34). "ddnm" is DDNM's, i (T // count): 100 of 1000 start at 990, and 300 at 897.

    Raises:
        ValueError: an unknown rule, or a count outside 1 to T.
    """
    if rule not in INDEX_RULES:
        raise ValueError(f"the rule for the indices is {rule!r}: choose one of {', '.join(INDEX_RULES)}")
    if not 1 <= count <= timesteps:
        raise ValueError(f"steps must be between 1 and the schedule's {timesteps}, not {count}")
    if rule == "exact":
        return step_indices(timesteps, count, exact=True)
    stride = timesteps // count
    upwards = range(0, timesteps, stride) if rule == "ddrm" else range(0, count * stride, stride)
    return [*reversed(upwards), -1]


def solver_steps(schedule: Schedule, indices: Sequence[int]) -> list[SolverStep]:
    """Make the steps between consecutive `indices`.

    Args:
        schedule: the coefficients that the prior was trained with, converted from DDPM's (`Schedule.from_ddim`).
        indices: from `solver_indices` or `travel.visited`; they end with -1.

    Raises:
        ValueError: a schedule that is not a converted one.
    """
    if not is_converted(schedule):
        raise ValueError(
            "DDRM and DDNM need a prior trained with DDPM's noise, where beta_bar^2 = 1 - (1 - alpha_bar)^2: "
            "make its schedule with Schedule.from_ddim"
        )

    def a(t: int) -> float:
        return (1.0 - schedule.alpha_bar_at(t)) ** 2

    return [SolverStep(t, s, a(t), a(s)) for t, s in pairwise(indices)]
