"""The losses that the trainer minimises, each a module, whose call is what wrappers (DDP, autocast) intercept.

All are called with a batch's images, this process's share of it, and where its random numbers come from; they return
the loss and its parts, one number an output.
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
from .aosa import AutoObjective

Share = tuple[int, int]
"""(process, processes): which part of a batch this is."""


class Draws(NamedTuple):
    """Where a batch's random numbers come from.

    generator: on the CPU; the times of the whole batch, and then its noise, are drawn from it.
    seed, stream: what the noise is drawn from inside the kernels instead, where a loss does that.
    share: this process's part of the batch, whose images alone the methods are given.
    """

    generator: torch.Generator
    seed: int
    stream: int
    share: Share

    def times(self, I_0: Tensor, first: int, end: int) -> Tensor:
        """This process's part of the batch's times, from `first` to before `end`."""
        t = torch.randint(first, end, (len(I_0) * self.share[1],), generator=self.generator)
        return self._own(t).to(I_0.device)

    def noise(self, I_0: Tensor) -> Tensor:
        """This process's part of the batch's noise, from the generator."""
        shape = (len(I_0) * self.share[1], *I_0.shape[1:])
        return self._own(torch.randn(shape, generator=self.generator)).to(I_0.device)

    def in_kernels(self, I_0: Tensor) -> dict[str, Any]:
        """What the fused ops are given to draw this process's part of the noise, or that part itself."""
        if self.share[1] == 1:
            return {"seed": self.seed, "stream": self.stream}
        # A kernel counts its noise from its image's first element, a share from the batch's.
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

    def forward(
        self,
        I_0: Tensor,
        I_in: Tensor | None,
        mask: Tensor | None,
        *,
        generator: torch.Generator,
        seed: int,
        stream: int,
        share: Share,
    ) -> tuple[Tensor, Tensor]:
        """(loss, parts) of this process's images, in [-1, 1]; the others are the fields of `Draws`."""
        draws = Draws(generator, seed, stream, share)
        return self.at(draws.times(I_0, *self.times()), I_0, I_in, mask, draws)

    def times(self) -> tuple[int, int]:
        """The range that times are drawn from, its end not included."""
        return 0, self.diffusion.num_timesteps

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """(loss, parts) at the times `t` (B,)."""
        # The class's own: `compat`'s subclass has other methods of these names.
        losses = ResidualDiffusion.losses(self.diffusion, I_0, I_in, t, mask, draws.noise(I_0))
        parts = torch.stack(losses)
        return parts.sum(), parts


class JointLosses(Losses):
    """The joint loss of an objective with two outputs, its noise drawn in the kernels, twice, from (seed, stream).

    The loss is 2 (lam L_0 + (1 - lam) L_1), so that lam = 1/2 gives the published sum of both.
    """

    def __init__(self, diffusion: ResidualDiffusion, lam: float) -> None:
        super().__init__(diffusion)
        self.lam = lam

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        diffusion, drawn = self.diffusion, draws.in_kernels(I_0)
        I_t = forward_diffuse(I_0, I_in, t, diffusion.alphas_cumsum, diffusion.betas_cumsum, **drawn)
        estimate = None
        if diffusion.self_condition and random.random() < 0.5:
            with torch.no_grad():
                estimate = diffusion.predict(I_t, t, I_in, mask).pred_x_start
        out0, out1 = diffusion.outputs(I_t, t, I_in, mask, estimate)
        options: dict[str, Any] = {"lam": self.lam, "loss_type": diffusion.loss_type, **drawn}
        loss, parts = joint_loss(out0, out1, I_0, I_in, objective=diffusion.objective, **options)
        return 2 * loss, parts


class SelectionLosses(Losses):
    """The loss of AOSA's selection, at the times of `AutoObjective.times`."""

    def __init__(self, selection: AutoObjective) -> None:
        super().__init__(selection.diffusion)
        self.selection = selection

    def times(self) -> tuple[int, int]:
        return self.selection.times()

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        losses = self.selection(I_0, I_in, t, mask, draws.noise(I_0))
        return losses.total, torch.stack([losses.residual, losses.noise])


def losses_of(model: ResidualDiffusion | AutoObjective, lam: float) -> Losses:
    """The losses of a model: the selection's, the joint ones of two outputs, or the plain ones of one."""
    if isinstance(model, AutoObjective):
        return SelectionLosses(model)
    return JointLosses(model, lam) if model.objective.outputs == 2 else Losses(model)


@contextmanager
def python_seeded(seed: int) -> Iterator[None]:
    """Python's own generator, which draws whether to self-condition, seeded for a while and then as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
