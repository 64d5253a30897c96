"""`FastPrior`: a model of the noise, or of the clean image, as the prior of DDRM and DDNM, on folded networks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..inverse.predictor import noise_in, predictor
from ..theory.steps import few_steps
from .fold import fold_for, network_dtype
from .loop import Loop
from .tuning.tuner import Tuner


class FastPrior:
    """The noise by `diffusion`, called as `prior(x_t, t)`, several times faster than `inverse.predictor`.

    The networks are folded once, for every index of the schedule, because DDRM, DDNM and their time travel choose the
    indices later. In float32 the noise is that of `inverse.predictor`, within rounding.

    Args:
        diffusion: a model that `inverse.predictor` accepts and whose networks are RDDM's U-Nets. It is not modified,
            and later changes of its weights do not reach this prior.
        dtype: the dtype of the networks' computation: float32, bfloat16 or float16. The default is bfloat16 on a GPU
            and the weights' own dtype on a CPU.
        compile: torch.compile the networks at the first image of each size. The default is True on a GPU.

    Attributes:
        schedule: the coefficients that the model was trained with; `inverse.restore` makes its steps from them.
        device: where the networks are.

    Raises:
        TypeError: networks that cannot be folded.
        ValueError: a model that `inverse.predictor` refuses, or another dtype.
    """

    def __init__(
        self, diffusion: ResidualDiffusion, *, dtype: torch.dtype | None = None, compile: bool | None = None
    ) -> None:
        dtype = network_dtype(dtype, diffusion.device)
        self.schedule = predictor(diffusion).schedule
        self.device, self._objective = diffusion.device, diffusion.objective
        every_index = few_steps(self.schedule, self.schedule.timesteps)
        networks = fold_for(diffusion, every_index, dtype=dtype)
        Tuner.of(networks, None, diffusion.device)  # Its layers take the choices that were measured on this machine.
        compiled = diffusion.device.type == "cuda" if compile is None else compile
        self._loop = Loop(diffusion, networks, every_index, compiled=compiled, parallel=False)
        self._number = {step.t: number for number, step in enumerate(every_index)}

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        """Return the noise in `x_t` (B, C, H, W) at index `t`, in the dtype of `x_t`."""
        height, width = x_t.shape[-2:]
        constant = [None] * len(self._loop.member)
        with self._loop.networks.own_arithmetic():
            (out,) = self._loop.outputs(x_t, self._number[t], None, constant)
        out = out[..., :height, :width].to(x_t.dtype, memory_format=torch.contiguous_format)
        return noise_in(x_t, out, self._objective, self.schedule, t)
