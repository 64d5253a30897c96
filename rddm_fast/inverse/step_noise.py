"""Where the noise of a solver's step comes from: given draws, which are images, or a seed.

Step i has stream i + 1 of the seed, for x_T has stream 0. A step in spectral coordinates takes V^T of a given draw, and
draws coordinates themselves from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..ops.noise import noise
from .solver_steps import Draw

Layout = Callable[[Tensor], Tensor]
"""From an image to the coordinates of the state, such as `operator.Vt`."""


def _as_it_is(image: Tensor) -> Tensor:
    return image


def step_noise(draw: Draw | int, number: int, layout: Layout = _as_it_is) -> dict[str, Any]:
    """Return the arguments by which an op takes the noise of step `number`, or draws it."""
    return {"seed": draw, "stream": number + 1} if isinstance(draw, int) else {"noise": layout(draw())}


def drawn_noise(draw: Draw | int, number: int, like: Tensor, layout: Layout = _as_it_is) -> Tensor:
    """Return the noise of step `number` itself, in the shape and dtype of `like`."""
    if isinstance(draw, int):
        return noise(like.shape, draw, number + 1, like.device).to(like.dtype)
    return layout(draw())
