"""Training that diverged stops: it says so, and its weights replace no checkpoint and become no model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SKIPPED_AT_MOST = 20
"""Losses in a row that are not finite, where a loss scaler skips such steps and thus keeps the weights finite."""


class Diverged(ValueError):
    """The loss or the weights are no longer finite; one sentence says what is left and what to do."""

    def __init__(self, what: str, left: str) -> None:
        super().__init__(
            f"{what}: training has diverged and stops; {left}; start again in another folder, with a smaller "
            "learning rate (--lr) or with train.grad_clip above 0"
        )


class LossWatch:
    """Counts the losses in a row that are not finite.

    Args:
        scaled: whether a loss scaler skips the steps whose gradients are not finite. Without one the first such step
            has already spoilt the weights.
    """

    def __init__(self, scaled: bool) -> None:
        self._most, self._in_a_row = SKIPPED_AT_MOST if scaled else 1, 0

    def diverged(self, loss: float) -> bool:
        """Take a step's loss; whether it is one too many."""
        self._in_a_row = 0 if math.isfinite(loss) else self._in_a_row + 1
        return self._in_a_row >= self._most


def all_finite(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> bool:
    """Whether all values are finite, also once they are rounded to `dtype`."""
    checks = [tensor.detach().to(dtype or tensor.dtype).isfinite().all() for tensor in tensors]
    return not checks or bool(torch.stack(checks).all())
