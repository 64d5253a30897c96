"""What the tests of the operators share: noise, the golden README's measure, a kernel, an operator's matrix."""

import torch
from torch import Tensor

from rddm_fast.inverse.operator import Operator

Image = tuple[int, int, int]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def far(a: Tensor, b: Tensor) -> float:
    """The golden README's measure: max |a - b| / max(1, max |b|)."""
    assert a.shape == b.shape
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


def kernel(height: int, width: int) -> Tensor:
    """A blur without zeros in its spectrum: a point and a little of everything else."""
    spread = noise(height, width, seed=7).abs()
    spread *= 0.4 / spread.sum()
    spread[height // 2, width // 2] += 0.6
    return spread


def matrix(op: Operator) -> Tensor:
    """The operator as a matrix (M, C H W), column by column, in float64."""
    c, h, w = op.image
    return op.A(torch.eye(c * h * w, dtype=torch.float64).view(-1, c, h, w)).flatten(1).T
