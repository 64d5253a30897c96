"""Operators one after another."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..check import penrose
from ..operator import Operator
from .function import check_iterations, least_norm, random_images


class Composition(Operator):
    """A = A_1 A_2 … A_n: the last operator acts first, as in the formula. It stores nothing.

    A+ is the product A_n+ … A_1+ where that is the pseudo-inverse, such as for grey after block mean. In general it is
    not, such as for block mean after a mask; then A+ is found by conjugate gradients. Which holds is tried on random
    images here: the product either meets the four laws of Moore and Penrose or misses them by much.

    Args:
        operators: A_1, …, A_n, at least one; the images of each are the measurements of the next.
        tolerance, max_iterations: of the conjugate gradients, as for `Function`.

    Attributes:
        exact: whether A+ is the product.
        batch: the number of images, if an operator serves only one number.

    Raises:
        ValueError: no operators, or two that do not fit.
    """

    def __init__(self, *operators: Operator, tolerance: float | None = None, max_iterations: int = 1000) -> None:
        if not operators:
            raise ValueError("a composition needs at least one operator")
        for outer, inner in pairwise(operators):
            if tuple(outer.image) != tuple(inner.measured):
                raise ValueError(
                    f"{type(outer).__name__} takes images {tuple(outer.image)}, but {type(inner).__name__} before it "
                    f"measures {tuple(inner.measured)}: make the outer one for that shape"
                )
        check_iterations(tolerance, max_iterations)
        batches = {n for op in operators if (n := getattr(op, "batch", None)) is not None}
        if len(batches) > 1:
            raise ValueError(f"the operators are for batches of {sorted(batches)} images: make them for one number")
        self.operators, self.tolerance, self.max_iterations = operators, tolerance, max_iterations
        self.image, self.measured = operators[-1].image, operators[0].measured
        self.batch = batches.pop() if batches else None
        # Float64 tells best; an operator made of a user's function is tried as that was.
        tried = [op.tried_with for op in operators if hasattr(op, "tried_with")]
        self.tried_with = tried[0] if tried else (torch.device("cpu"), torch.float64)
        self.exact = self._product_is_exact()

    def A(self, x: Tensor) -> Tensor:
        for op in reversed(self.operators):
            x = op.A(x)
        return x

    def At(self, y: Tensor) -> Tensor:
        for op in self.operators:
            y = op.At(y)
        return y

    def pinv(self, y: Tensor) -> Tensor:
        if self.exact:
            for op in self.operators:
                y = op.pinv(y)
            return y
        return least_norm(self.A, self.At, y, tolerance=self.tolerance, max_iterations=self.max_iterations)

    def _product_is_exact(self) -> bool:
        batch = self.batch or 1
        x, x2 = (random_images(self.image, batch, self.tried_with, seed) for seed in (1, 2))
        y, y2 = (random_images(self.measured, batch, self.tried_with, seed) for seed in (3, 4))
        # 1e-8: the laws hold to 1e-13 in float64 or fail by a share of order 1; 1e-4 is the same for float32.
        allowed = 1e-4 if self.tried_with[1] != torch.float64 else 1e-8
        self.exact = True
        with torch.no_grad():
            return all(error <= allowed for _, error in penrose(self, x, x2, y, y2))
