"""Time travel (RePaint; DDNM, Alg. 2): now and then the walk goes back up and comes down again.

With length l and repeat r the walk of n steps, numbered n - 1 to 0 by their start, goes back up l steps at each of the
numbers 0, l, 2l, ... below n - l, r - 1 times. l = r = 1 is a plain walk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .solver_steps import SolverStep

BackUp = Callable[[SolverStep, Tensor, Tensor, Tensor], Tensor]
"""A way back up: takes the step, x_t, the last x_0 and a draw z; returns x_s. It serves images and their spectra."""


def visited(indices: Sequence[int], length: int = 1, repeat: int = 1) -> list[int]:
    """Return the indices visited with time travel: the published order of DDNM.

    Args:
        indices: the walk without travel, in descending order, ending with -1 (`solver_indices`).
        length: l, the number of steps to go back.
        repeat: r, how often each stretch is walked.

    Raises:
        ValueError: l or r below 1, or l longer than the walk.
    """
    count = len(indices) - 1
    if length < 1 or repeat < 1:
        raise ValueError(f"time travel takes two numbers of at least 1, length and repeat, not ({length}, {repeat})")
    if length > count:
        raise ValueError(
            f"time travel of {length} steps is longer than the walk of {count} steps: take at most {count}"
        )
    left = {number: repeat - 1 for number in range(0, count - length, length)}  # the jumps still to make
    number, order = count, []
    while number > 0:
        number -= 1
        order.append(number)
        if left.get(number, 0):
            left[number] -= 1
            order.extend(range(number + 1, number + length + 1))
            number += length
    return [indices[count - 1 - number] for number in order] + [indices[-1]]


def up_from_x_t(step: SolverStep, x_t: Tensor, x_0: Tensor, z: Tensor) -> Tensor:
    """Go up as the paper does: draw from q(x_s | x_t), which adds noise to x_t."""
    kept = step.a_s / step.a_t
    return kept**0.5 * x_t + (1.0 - kept) ** 0.5 * z


def up_from_x_0(step: SolverStep, x_t: Tensor, x_0: Tensor, z: Tensor) -> Tensor:
    """Go up as the published code does: noise the last x_0 that the network implied, before y corrected it.

    x_t has no influence. So of several such steps in a row only the last draw counts.
    """
    return step.root_a_s * x_0 + step.sigma_s * z
