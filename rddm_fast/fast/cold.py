"""`FastColdRestorer`: a restorer of Cold Diffusion on folded networks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.cold_restorer import ColdRestorer, check_level
from .fold import fold, network_dtype


class FastColdRestorer:
    """The images that `restorer` restores, called as `fast(x_s, s)`, on networks that are folded once for all levels.

    In float32 the images are those of `restorer`, within rounding.

    Args:
        restorer: it is not modified, and later changes of its weights do not reach this object.
        dtype: the dtype of the networks' computation: float32, bfloat16 or float16. The default is bfloat16 on a GPU
            and the weights' own dtype on a CPU.

    Raises:
        TypeError: a network that cannot be folded.
        ValueError: another dtype.
    """

    def __init__(self, restorer: ColdRestorer, *, dtype: torch.dtype | None = None) -> None:
        levels = torch.arange(1, restorer.T + 1, device=restorer.device)
        self.networks = fold(restorer.model, [levels], dtype=network_dtype(dtype, restorer.device))
        self.T = restorer.T

    @torch.no_grad()
    def __call__(self, x_s: Tensor, s: int) -> Tensor:
        """Estimate x_0 from `x_s` (B, C, H, W) at level `s`, 1 to T, in the dtype of `x_s`."""
        check_level(s, self.T)
        with self.networks.own_arithmetic():
            (missing,) = self.networks(x_s, s - 1)
        return x_s + missing.to(x_s.dtype, memory_format=torch.contiguous_format)
