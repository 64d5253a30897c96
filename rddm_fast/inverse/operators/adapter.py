"""Operators of the library deepinv (`deepinv.physics`), without importing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..check import difference
from ..operator import Operator, SpectralOperator
from .arguments import check_image
from .function import least_norm, measure_linear, random_images

_ZERO = 1e-5
"""Singular values up to this are 0, as in deepinv's own A_dagger."""


def from_deepinv(
    physics: Any,
    image: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Operator:
    """Make an operator of a linear physics of deepinv.

    A `DecomposablePhysics` whose `V` is orthogonal, with as many coordinates as the image has elements, becomes a
    `SpectralOperator`. Others, such as those with half a Fourier spectrum, use `A_dagger` where it is the
    pseudo-inverse on a random image, to 1e-4. deepinv's default is conjugate gradients that stop earlier; then
    `least_norm` is used. The noise model is not read: `sigma_y` is the solver's argument.

    Args:
        physics: an object with A and A_adjoint, and A_dagger, or U, U_adjoint, V, V_adjoint and mask.
        image: (C, H, W).
        device, dtype: those of the physics.

    Raises:
        ValueError: no such object, or one that is not linear.
    """
    missing = [name for name in ("A", "A_adjoint") if not callable(getattr(physics, name, None))]
    if missing:
        raise ValueError(
            f"{type(physics).__name__} has no {' and no '.join(missing)}: pass a linear physics of deepinv"
        )
    shape, on = check_image(image), (torch.device(device), dtype)
    x = random_images(shape, 2, on)
    y = measure_linear(physics.A, x, type(physics).__name__, mixes=False)
    measured = tuple(y.shape[1:])
    with torch.no_grad():
        if _has_orthogonal_V(physics, x):
            return _Decomposable(physics, shape, measured, on)
        exact = callable(getattr(physics, "A_dagger", None)) and _is_pseudo_inverse(physics, x, y)
    return _Linear(physics, shape, measured, on, exact)


class _Linear(Operator):
    def __init__(
        self,
        physics: Any,
        image: tuple[int, int, int],
        measured: tuple[int, ...],
        on: tuple[torch.device, torch.dtype],
        exact: bool,
    ) -> None:
        self.physics, self.image, self.measured, self.tried_with, self.exact = physics, image, measured, on, exact

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def At(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.physics.A_dagger(y) if self.exact else least_norm(self.A, self.At, y)


class _Decomposable(SpectralOperator):
    """A = U diag(mask) V^T. A negative singular value gives its sign to U."""

    def __init__(
        self,
        physics: Any,
        image: tuple[int, int, int],
        measured: tuple[int, ...],
        on: tuple[torch.device, torch.dtype],
    ) -> None:
        self.physics, self.image, self.measured, self.tried_with = physics, image, measured, on
        self._layout = tuple(physics.V_adjoint(torch.zeros(1, *image).to(*on)).shape[1:])

    def Vt(self, x: Tensor) -> Tensor:
        return self.physics.V_adjoint(x).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return self.physics.V(z.reshape(-1, *self._layout))

    def Ut(self, y: Tensor) -> Tensor:
        return self.physics.U_adjoint(y).flatten(1) * self._signs(y)

    def U(self, z: Tensor) -> Tensor:
        return self.physics.U((z * self._signs(z)).reshape(-1, *self._layout))

    def singulars(self, like: Tensor) -> Tensor:
        s = self._mask(like).abs()
        return torch.where(s > _ZERO, s, 0.0)

    def _signs(self, like: Tensor) -> Tensor:
        mask = self._mask(like)
        return torch.where(mask.abs() > _ZERO, mask.sign(), 0.0)

    def _mask(self, like: Tensor) -> Tensor:
        mask = torch.as_tensor(self.physics.mask).to(like.device, like.dtype)
        return mask.expand(1 if mask.dim() <= len(self._layout) else len(mask), *self._layout).flatten(1)


def _has_orthogonal_V(physics: Any, x: Tensor) -> bool:
    if not all(hasattr(physics, name) for name in ("U", "U_adjoint", "V", "V_adjoint", "mask")):
        return False
    z = physics.V_adjoint(x)
    if torch.as_tensor(physics.mask).is_complex() or z.is_complex() or z.numel() != x.numel():
        return False
    coordinates = x.flip(1).reshape(z.shape)
    return (
        difference(physics.V(z), x) <= 1e-4
        and difference(physics.V_adjoint(physics.V(coordinates)), coordinates) <= 1e-4
    )


def _is_pseudo_inverse(physics: Any, x: Tensor, y: Tensor) -> bool:
    """Return whether A A+ A x = A x, and A+ y is in the range of At, so that it is the one of least norm."""
    back = physics.A_dagger(y)
    if difference(physics.A(back), y) > 1e-4:
        return False
    return difference(least_norm(physics.A, physics.A_adjoint, y), back) <= 1e-3
