"""What smoothing and filling share: the cosine transform of small windows, and brightness apart from colours."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def cosine_basis(size: int) -> Tensor:
    """Return the orthonormal cosine transform of `size` values, a matrix in float32."""
    places = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * places[None] + 1) * places[:, None] / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()


def turned(colours: Tensor, back: bool) -> Tensor:
    """Turn (B, 3, H, W) from red, green and blue to brightness and two differences, or back; others stay."""
    if colours.shape[1] != 3:
        return colours
    turn = colours.new_tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
    turn = turn / turn.norm(dim=1, keepdim=True)
    return torch.einsum("ji,bjhw->bihw" if back else "ij,bjhw->bihw", turn, colours)
