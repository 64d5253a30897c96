"""Sampling of Cold Diffusion (Bansal et al., 2022) as one pure function: restore, degrade one level less, repeat.

    naive (Algorithm 1)    x_{s-1} = D(x_0, s - 1)
    TACoS (Algorithm 2)    x_{s-1} = x_s - D(x_0, s) + D(x_0, s - 1)

x_0 is the restorer's estimate at x_s. With an exact restorer both give the true image. TACoS does not add up a
restorer's errors, and to first order in s it does not feel them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .degradation import Degradation, check_choice

ALGORITHMS = ("tacos", "naive")

Restorer = Callable[[Tensor, int], Tensor]
"""The network: takes x_s and a time, returns its estimate of x_0, of the same shape."""
OnStep = Callable[[int, "ColdStep", Tensor], None]
"""Called after every step with the step's number, the step and the image."""


@dataclass(frozen=True)
class ColdStep:
    """One step from level `s` to `s - 1`.

    Attributes:
        s: the level of the image that the step starts from.
        told: the time that the restorer is told.
        leaves, enters: the levels of D that TACoS subtracts and adds; naive sampling uses the second alone.
    """

    s: int
    told: int
    leaves: int
    enters: int


def cold_steps(degradation: Degradation, official: bool = False) -> list[ColdStep]:
    """Make the T steps from level T to 0. `official` is explained at `sample`."""
    if not official:
        return [ColdStep(s, told=s, leaves=s, enters=s - 1) for s in range(degradation.T, 0, -1)]
    level = degradation.published_level
    return [ColdStep(s, told=s - 1, leaves=level(s), enters=level(s - 1)) for s in range(degradation.T, 0, -1)]


@torch.no_grad()
def sample(
    restorer: Restorer,
    degradation: Degradation,
    x_T: Tensor,
    algorithm: str = "tacos",
    *,
    on_step: OnStep | None = None,
    progress: Callable[[Sequence[ColdStep]], Iterable[ColdStep]] | None = None,
    official: bool = False,
) -> Tensor:
    """Walk from the degraded image to the clean one.

    Args:
        restorer: the network, called `restorer(x_s, s)` with s = T .. 1, the number of degradations in x_s.
        degradation: D, of T levels.
        x_T: the degraded images, (B, C, H, W), float32 or float64 in [-1, 1]: `degradation.start(x_0)`, a picture that
            is already degraded, or x_end to generate.
        algorithm: "tacos" or "naive".
        on_step: called after every step.
        progress: wraps the list of steps, as tqdm does.
        official: sample as the published code does, whose networks are told s - 1, from T - 1 to 0, instead of s. Its
            snow and decolour apply D one level too low, so that TACoS does not reach the clean image: an exact restorer
            leaves D(x_0, T) - D(x_0, T - 1) over. Its blur "Individual_Incremental" takes the strongest kernel for
            level 0.

    Returns:
        The image after the last step, of x_T's shape, not clamped.

    Raises:
        ValueError: an unknown algorithm, an x_T of another size or batch than the degradation's tables, or a restorer
            that returns another shape.
        TypeError: an x_T that is neither float32 nor float64.
    """
    check_choice("algorithm", algorithm, ALGORITHMS)
    degradation.check(x_T)
    steps = cold_steps(degradation, official)
    x_s = x_T
    for i, step in enumerate(steps if progress is None else progress(steps)):
        # Restore.
        x_0 = restorer(x_s, step.told)
        if x_0.shape != x_s.shape:
            raise ValueError(
                f"the restorer returned {tuple(x_0.shape)}: it must return x_0 of the shape {tuple(x_s.shape)}"
            )

        # Learn from x_s what the degradation leaves open.
        known = degradation.at(x_s, x_0, step.s)

        # Degrade one level less: the estimate itself, or x_s by the change that this makes to the estimate.
        naive = algorithm == "naive"
        x_s = known.D(x_0, step.enters) if naive else known.tacos(x_s, x_0, step.leaves, step.enters)

        # Show the image.
        if on_step is not None:
            on_step(i, step, x_s)
    return x_s
