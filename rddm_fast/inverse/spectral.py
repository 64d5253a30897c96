"""What the solvers in spectral coordinates share; there A is a multiplication by the singular values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.noise import noise
from .operator import SpectralOperator
from .solver_steps import Draw


def measured(operator: SpectralOperator, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular values s, 1/s and y_bar = U^T y / s, in the layout of `operator.Vt`.

    1/s and y_bar are 0 where s = 0. y_bar is V^T x_0 plus noise of deviation sigma_y / s.

    Args:
        operator: A.
        y: the measurement, (B, *operator.measured).
    """
    s = torch.atleast_2d(operator.singulars(y))
    unobserved = s == 0
    inverse = s.masked_fill(unobserved, 1.0).reciprocal().masked_fill(unobserved, 0.0)
    return s, inverse, operator.Ut(y) * inverse


def step_noise(draw: Draw | int, number: int, operator: SpectralOperator) -> dict[str, Any]:
    """Return the arguments of `spectral_step_` that say where the noise of step `number` comes from.

    Args:
        draw: gives one draw a step, an image; or a seed, from which the op draws spectral coordinates. Step `number`
            has stream number + 1, for x_T has stream 0.
        number: the number of the step.
        operator: A.
    """
    return {"seed": draw, "stream": number + 1} if isinstance(draw, int) else {"noise": operator.Vt(draw())}


def drawn_noise(draw: Draw | int, number: int, operator: SpectralOperator, like: Tensor) -> Tensor:
    """Return the noise of step `number` as coordinates like `like`. The arguments are those of `step_noise`."""
    if isinstance(draw, int):
        return noise(like.shape, draw, number + 1, like.device).to(like.dtype)
    return operator.Vt(draw())


def image_of(operator: SpectralOperator, x: Tensor) -> Tensor:
    """Return the image V x, never a view of `x`, for the next step writes over `x`."""
    image = operator.V(x)
    is_view = image.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    return image.clone() if is_view else image
