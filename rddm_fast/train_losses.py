"""The losses that `rddm_fast.train` minimises, each a module, whose call is what wrappers (DDP, autocast) intercept.

All are called with a batch's images, this process's share of it, and where its random numbers come from; they return
the loss and its parts, one number an output.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .aosa import AutoObjective
from .diffusion import ResidualDiffusion
from .ops import forward_diffuse, joint_loss
from .ops.noise import normals_at

Share = tuple[int, int]
"""(process, processes): which part of a batch this is."""


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
        """(loss, parts) of images in [-1, 1].

        Args:
            generator: on the CPU; the times of the whole batch, and then its noise, are drawn from it.
            seed, stream: what the noise is drawn from inside the kernels instead, where a loss does that.
            share: this process's part; the images are of it alone.
        """
        t = self.draw_times(I_0, generator, share)
        parts = self.parts(I_0, I_in, mask, t, draw_noise(I_0, generator, share))
        return parts.sum(), parts

    def draw_times(self, I_0: Tensor, generator: torch.Generator, share: Share, times: Any = None) -> Tensor:
        first, end = times or (0, self.diffusion.num_timesteps)
        t = torch.randint(first, end, (len(I_0) * share[1],), generator=generator)
        return _own(t, share).to(I_0.device)

    def parts(self, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        # The class's own: `compat`'s subclass has other methods of these names.
        return torch.stack(ResidualDiffusion.losses(self.diffusion, I_0, I_in, t, mask, noise))


class JointLosses(Losses):
    """The joint loss of an objective with two outputs, its noise drawn in the kernels, twice, from (seed, stream).

    The loss is 2 (lam L_0 + (1 - lam) L_1), so that lam = 1/2 gives the published sum of both.
    """

    def __init__(self, diffusion: ResidualDiffusion, lam: float) -> None:
        super().__init__(diffusion)
        self.lam = lam

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
        """As `Losses.forward`."""
        diffusion = self.diffusion
        t = self.draw_times(I_0, generator, share)
        drawn: dict[str, Any] = {"seed": seed, "stream": stream}
        if share[1] > 1:  # a kernel counts its noise from its image's first element, a share from the batch's
            drawn = {"noise": _noise_of(I_0, seed, stream, share)}
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
    """The loss of AOSA's selection."""

    def __init__(self, selection: AutoObjective) -> None:
        super().__init__(selection.diffusion)
        self.selection = selection

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
        """As `Losses.forward`; the times are those of `AutoObjective.times`."""
        t = self.draw_times(I_0, generator, share, self.selection.times())
        losses = self.selection(I_0, I_in, t, mask, draw_noise(I_0, generator, share))
        return losses.total, torch.stack([losses.residual, losses.noise])


def losses_of(model: ResidualDiffusion | AutoObjective, lam: float) -> Losses:
    """The losses of a model: the selection's, the joint ones of two outputs, or the plain ones of one."""
    if isinstance(model, AutoObjective):
        return SelectionLosses(model)
    return JointLosses(model, lam) if model.objective.outputs == 2 else Losses(model)


def draw_noise(I_0: Tensor, generator: torch.Generator, share: Share) -> Tensor:
    """This process's part of the noise of the whole batch."""
    shape = (len(I_0) * share[1], *I_0.shape[1:])
    return _own(torch.randn(shape, generator=generator), share).to(I_0.device)


def _own(whole: Tensor, share: Share) -> Tensor:
    return whole.chunk(share[1])[share[0]]


def _noise_of(I_0: Tensor, seed: int, stream: int, share: Share) -> Tensor:
    """This process's part of what `ops.noise` draws for the whole batch."""
    count = math.prod(I_0.shape)
    elements = torch.arange(share[0] * count, (share[0] + 1) * count, device=I_0.device)
    return normals_at(elements, seed, stream).float().reshape(I_0.shape)


@contextmanager
def python_seeded(seed: int) -> Iterator[None]:
    """Python's own generator, which draws whether to self-condition, seeded for a while and then as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
