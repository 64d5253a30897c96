"""What the solvers in spectral coordinates share; there A is a multiplication by the singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from .operator import SpectralOperator


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


def image_of(operator: SpectralOperator, x: Tensor) -> Tensor:
    """Return the image V x, never a view of `x`, for the next step writes over `x`."""
    image = operator.V(x)
    is_view = image.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    return image.clone() if is_view else image
