"""The losses that the trainer minimises. Each is a module, because wrappers (DDP, autocast) intercept module calls.

All take this process's images of a batch and the source of the batch's random numbers. They return the loss and its
parts, one number per output.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..ops.forward_diffuse import forward_diffuse
from ..ops.joint_loss import joint_loss
from ..ops.noise import normals_at

Share = tuple[int, int]
"""(process, processes): which part of a batch this is."""


class Draws(NamedTuple):
    """The source of a batch's random numbers. Its methods take and return this process's part of the batch.

    Attributes:
        generator: on the CPU; it draws the times of the whole batch, and then its noise.
        seed, stream: the counter-based source of the noise, for losses that draw it inside the kernels.
        share: this process's part of the batch.
    """

    generator: torch.Generator
    seed: int
    stream: int
    share: Share

    def times(self, I_0: Tensor, first: int, end: int) -> Tensor:
        """Indices (B,) from `first` to before `end`."""
        t = torch.randint(first, end, (len(I_0) * self.share[1],), generator=self.generator)
        return self._own(t).to(I_0.device)

    def noise(self, I_0: Tensor) -> Tensor:
        """Normal noise of I_0's shape, from the generator."""
        shape = (len(I_0) * self.share[1], *I_0.shape[1:])
        return self._own(torch.randn(shape, generator=self.generator)).to(I_0.device)

    def in_kernels(self, I_0: Tensor) -> dict[str, Any]:
        """The arguments by which the fused ops draw the noise, or the noise itself where a batch is shared."""
        if self.share[1] == 1:
            return {"seed": self.seed, "stream": self.stream}
        # A kernel counts elements from the first one of its own images; a share must count from the batch's first.
        count = math.prod(I_0.shape)
        elements = torch.arange(self.share[0] * count, (self.share[0] + 1) * count, device=I_0.device)
        return {"noise": normals_at(elements, self.seed, self.stream).float().reshape(I_0.shape)}

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.share[1])[self.share[0]]


class Losses(nn.Module):
    """The losses of an objective with one output, `ResidualDiffusion.losses`."""

    def __init__(self, diffusion: ResidualDiffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, *, draws: Draws) -> tuple[Tensor, Tensor]:
        """(loss, parts) of images (B, C, H, W) in [-1, 1]; the mask in the range that the network takes."""
        return self.at(draws.times(I_0, *self.times()), I_0, I_in, mask, draws)

    def times(self) -> tuple[int, int]:
        """(first, end): times are drawn from `first` to before `end`."""
        return 0, self.diffusion.num_timesteps

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """(loss, parts) at the times `t` (B,)."""
        parts = torch.stack(self.diffusion.losses(I_0, I_in, t, mask, draws.noise(I_0)))
        return parts.sum(), parts


class JointLosses(Losses):
    """The joint loss of an objective with two outputs: 2 (lam L_0 + (1 - lam) L_1); lam = 1/2 is the published sum.

    The noise is never in memory: both kernels draw it from (seed, stream).
    """

    def __init__(self, diffusion: ResidualDiffusion, lam: float) -> None:
        super().__init__(diffusion)
        self.lam = lam

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        diffusion, drawn = self.diffusion, draws.in_kernels(I_0)
        # Noise the images.
        I_t = forward_diffuse(I_0, I_in, t, diffusion.alphas_cumsum, diffusion.betas_cumsum, **drawn)
        if diffusion.schedule.delta_bar is not None and I_in is not None:
            I_t -= diffusion.get_buffer("delta_cumsum")[t].view(-1, 1, 1, 1) * I_in
        # Show the network its own estimate, half of the time.
        estimate = None
        if diffusion.self_condition and random.random() < 0.5:
            with torch.no_grad():
                estimate = diffusion.predict(I_t, t, I_in, mask).pred_x_start
        # Predict, and compare with the targets.
        out0, out1 = diffusion.outputs(I_t, t, I_in, mask, estimate)
        options: dict[str, Any] = {"lam": self.lam, "loss_type": diffusion.loss_type, **drawn}
        loss, parts = joint_loss(out0, out1, I_0, I_in, objective=diffusion.objective, **options)
        return 2 * loss, parts


def losses_of(diffusion: ResidualDiffusion, lam: float) -> Losses:
    """The losses of a model: joint ones for two outputs, plain ones for one."""
    return JointLosses(diffusion, lam) if diffusion.objective.outputs == 2 else Losses(diffusion)


@contextmanager
def python_seeded(seed: int) -> Iterator[None]:
    """Seed Python's generator, which decides on self-conditioning, and restore its state afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
