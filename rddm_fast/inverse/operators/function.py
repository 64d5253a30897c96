"""Any linear function of images as an operator: its adjoint by autograd, its pseudo-inverse by conjugate gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...system.errors import one_line
from ..check import difference
from ..operator import Operator
from .arguments import check_image

Linear = Callable[[Tensor], Tensor]

CG_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""The smallest residual that the recurrence reaches in a dtype, with a margin of ten."""


class Function(Operator):
    """y = A(x) for a linear Python function A. It stores nothing.

    At is the vector-Jacobian product of A. A+ y is `least_norm`. A call of `pinv` costs up to `max_iterations` calls of
    A and of At, and looks at the residual on the host after each one; `tolerance=0` never looks, so that a CUDA graph
    can hold it.

    Args:
        image: (C, H, W).
        function: A, from images (B, C, H, W) to measurements (B, ...), for any B, in torch.
        adjoint: At, from measurements to images; by autograd if None.
        tolerance: stop at this residual of the normal equations, relative to its start; None is 1e-6 in float32 and
            1e-12 in float64.
        max_iterations: stop after as many, with a warning.
        batch: the number of images, if A serves only one number, such as with a mask for each image.
        device, dtype: those with which A is tried here.

    Raises:
        ValueError: a function that raises, is not linear, mixes the images of a batch, or has no gradient.
    """

    def __init__(
        self,
        image: Sequence[int],
        function: Linear,
        *,
        adjoint: Linear | None = None,
        tolerance: float | None = None,
        max_iterations: int = 1000,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.image = check_image(image)
        check_iterations(tolerance, max_iterations)
        self._function, self._adjoint = function, adjoint
        self.tolerance, self.max_iterations, self.batch = tolerance, max_iterations, batch
        self.tried_with = (torch.device(device), dtype)
        probe = random_images(self.image, batch or 2, self.tried_with)
        y = measure_linear(function, probe, "the function", mixes=batch is not None)
        self.measured = tuple(y.shape[1:])
        self.At(y)  # a function without a gradient is refused now, not in the solver

    def A(self, x: Tensor) -> Tensor:
        return self._function(x)

    def At(self, y: Tensor) -> Tensor:
        if self._adjoint is not None:
            return self._adjoint(y)
        with torch.inference_mode(False), torch.enable_grad():  # solvers run without gradients
            y = y.clone() if y.is_inference() else y
            x = torch.zeros(len(y), *self.image, dtype=y.dtype, device=y.device, requires_grad=True)
            result = self._function(x)
            if not result.requires_grad:
                raise ValueError("the function has no gradient: write it in torch operations, or pass its adjoint")
            return torch.autograd.grad(result, x, y)[0]

    def pinv(self, y: Tensor) -> Tensor:
        return least_norm(self.A, self.At, y, tolerance=self.tolerance, max_iterations=self.max_iterations)


def least_norm(
    A: Linear, At: Linear, y: Tensor, *, tolerance: float | None = None, max_iterations: int = 1000
) -> Tensor:
    """Return A+ y by conjugate gradients on the normal equations (CGLS; Hestenes and Stiefel, 1952).

    All iterates are in the range of At, so the limit is the image of least norm. Each image of the batch has its own
    step lengths and stands still once |At (y - A x)| <= tolerance |At y|.

    Warns:
        RuntimeWarning: `max_iterations` reached.
    """
    limit = CG_TOLERANCE.get(y.dtype, 1e-6) if tolerance is None else tolerance
    r, s = y, At(y)
    x, p, gamma = torch.zeros_like(s), s, _square(s)
    goal = gamma * limit**2
    for _ in range(max_iterations):
        moving = gamma > goal
        if limit and not bool(moving.any()):
            return x
        q = A(p)
        delta = _square(q)
        alpha = torch.where(moving & (delta > 0), gamma / torch.where(delta > 0, delta, 1.0), 0.0)
        x = x + _each(alpha, p) * p
        r = r - _each(alpha, r) * q
        s = At(r)
        previous, gamma = gamma, torch.where(moving, _square(s), gamma)
        p = (
            s
            + _each(torch.where(moving & (previous > 0), gamma / torch.where(previous > 0, previous, 1.0), 0.0), p) * p
        )
    if limit and bool((gamma > goal).any()):
        reached = float((gamma / (goal / limit**2)).max().sqrt())
        warnings.warn(
            f"conjugate gradients reached a residual of {reached:.0e} in {max_iterations} iterations, not {limit:.0e}: "
            "raise max_iterations or tolerance, or leave parts that the operator nearly loses out of it",
            RuntimeWarning,
            stacklevel=3,
        )
    return x


def check_iterations(tolerance: float | None, max_iterations: int) -> None:
    """Raise ValueError for a negative tolerance or no iteration."""
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}: it must be 0 or more")
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}: it must be 1 or more")


def random_images(shape: Sequence[int], batch: int, on: tuple[torch.device, torch.dtype], seed: int = 0) -> Tensor:
    """Return normal noise (batch, *shape) on a device and in a dtype; the same numbers everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(*on)


def measure_linear(A: Linear, x: Tensor, name: str, *, mixes: bool) -> Tensor:
    """Return A(x) after trying on the images x (B, C, H, W) whether A is linear.

    Args:
        name: what the sentences call A.
        mixes: whether A may treat the images of a batch unlike.

    Raises:
        ValueError: A raises, returns no batch of finite numbers, is not linear, or mixes the images of a batch.
    """
    # 1e-4 and 1e-8 are a thousand times what rounding does in float32 and more in float64.
    allowed = 1e-4 if x.dtype != torch.float64 else 1e-8
    other = x.flip(-1) + 0.5
    with torch.no_grad():
        try:
            y, of_other, of_sum, of_zero = A(x), A(other), A(2 * x - 3 * other), A(torch.zeros_like(x))
        except Exception as error:  # whatever a user's function raises
            raise ValueError(
                f"{name} raised {type(error).__name__} for images {tuple(x.shape)}: {one_line(error)}; "
                "it must take images (B, C, H, W) and return measurements (B, ...)"
            ) from error
        if not isinstance(y, Tensor) or y.dim() < 2 or len(y) != len(x):
            what = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{name} returns {what} for images {tuple(x.shape)}: it must return a tensor ({len(x)}, ...)"
            )
        if not bool(y.isfinite().all()):
            raise ValueError(f"{name} returns infinite numbers or NaN for a finite image: it must be linear")
        if bool((of_zero.abs() > allowed * (y.abs().max() + of_other.abs().max())).any()):
            raise ValueError(f"{name} is not linear, A(0) is not 0: subtract its constant part from it and from y")
        off = difference(of_sum, 2 * y - 3 * of_other)
        if off > allowed:
            raise ValueError(
                f"{name} is not linear, A(2 x - 3 x') differs from 2 A(x) - 3 A(x') by {off:.1e} of its size: "
                "the solvers need a linear degradation"
            )
        if not mixes and difference(A(x[:1]), y[:1]) > allowed:
            raise ValueError(f"{name} mixes the images of a batch: it must measure each image alone")
    return y


def _square(v: Tensor) -> Tensor:
    """Return the squared norm of each row, (B,)."""
    return v.flatten(1).square().sum(1)


def _each(number: Tensor, like: Tensor) -> Tensor:
    return number.view(-1, *[1] * (like.dim() - 1))
