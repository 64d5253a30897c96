"""The losses that the trainer minimises. Each is a module, because wrappers (DDP, autocast) intercept module calls.

All take this process's images of a batch and the source of the batch's random numbers. They return the loss and its
parts, one number per output.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from ..inverse.cold.degradation import Degradation
from ..inverse.cold.recipes import Recipe
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

    def times(self, I_0: Tensor, first: int, end: int, at_start: float = 0.0) -> Tensor:
        """Indices (B,) from `first` to before `end`; a share `at_start` of them is the last, where sampling starts."""
        count = len(I_0) * self.share[1]
        t = torch.randint(first, end, (count,), generator=self.generator)
        if at_start:
            t[torch.rand(count, generator=self.generator) < at_start] = end - 1
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

    def of_pictures(self, I_0: Tensor, draw: Callable[[int, torch.Generator], Tensor | None]) -> Tensor | None:
        """What `draw(pictures, generator)` draws for each picture of the whole batch; None if it draws nothing."""
        whole = draw(len(I_0) * self.share[1], self.generator)
        return None if whole is None else self._own(whole)

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.share[1])[self.share[0]]


class Losses(nn.Module):
    """The losses of an objective with one output, `ResidualDiffusion.losses`.

    Attributes:
        diffusion: the model that is trained, a `ResidualDiffusion` or, in `ColdLosses`, a `ColdRestorer`.
        at_start: the share of images that is trained at the last time, from which sampling starts.
    """

    def __init__(self, diffusion: ResidualDiffusion | ColdRestorer, at_start: float = 0.0) -> None:
        super().__init__()
        self.diffusion: Any = diffusion
        self.at_start = at_start

    @property
    def names(self) -> list[str]:
        """The names of the loss's parts in the log, such as loss_res and loss_noise."""
        first, _, second = self.diffusion.objective.name.removeprefix("pred_").partition("_")
        return [f"loss_{name}" for name in (first, second) if name]

    def forward(self, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, *, draws: Draws) -> tuple[Tensor, Tensor]:
        """(loss, parts) of images (B, C, H, W) in [-1, 1]; the mask in the range that the network takes."""
        return self.at(draws.times(I_0, *self.times(), self.at_start), I_0, I_in, mask, draws)

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

    def __init__(self, diffusion: ResidualDiffusion, lam: float, at_start: float = 0.0) -> None:
        super().__init__(diffusion, at_start)
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
        if diffusion.mask_marks is not None and I_in is not None:
            out0 = diffusion.judged(out0, I_0 if diffusion.objective.x0_known else I_in - I_0, mask)
        options: dict[str, Any] = {"lam": self.lam, "loss_type": diffusion.loss_type, **drawn}
        loss, parts = joint_loss(out0, out1, I_0, I_in, objective=diffusion.objective, **options)
        return 2 * loss, parts


class ColdLosses(Losses):
    """The loss of Cold Diffusion, E |R(D(x_0, s), s) - x_0| with s uniform on 1 .. T; squared for "l2"."""

    def __init__(self, restorer: ColdRestorer, at_start: float = 0.0) -> None:
        super().__init__(restorer, at_start)
        self.recipe = Recipe.of(restorer.recipe)
        self._made: dict[tuple[int, int], Degradation] = {}

    @property
    def names(self) -> list[str]:
        return ["loss_x_0"]

    def times(self) -> tuple[int, int]:
        return 1, self.recipe.T + 1

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        # Degrade in float32, whatever precision the network trains in.
        with torch.no_grad(), torch.autocast(I_0.device.type, enabled=False):
            x_s = self._degradation(I_0, draws).D(I_0, t)
        # Restore, and compare with the truth.
        distance = F.l1_loss if self.diffusion.loss_type == "l1" else F.mse_loss
        loss = distance(self.diffusion(x_s, t).float(), I_0)
        return loss, loss[None]

    def _degradation(self, I_0: Tensor, draws: Draws) -> Degradation:
        """The degradation of these images; one that all pictures share is made once."""
        size = (I_0.shape[-2], I_0.shape[-1])
        drawn = draws.of_pictures(I_0, lambda pictures, generator: self.recipe.draw(size, pictures, generator))
        if drawn is not None:
            return self.recipe.made(size, drawn)
        if size not in self._made:
            self._made[size] = self.recipe.made(size)
        return self._made[size]


def losses_of(diffusion: ResidualDiffusion | ColdRestorer, lam: float, at_start: float = 0.0) -> Losses:
    """The losses of a model: joint ones for two outputs, plain ones for one, and those of a cold restorer."""
    if isinstance(diffusion, ColdRestorer):
        return ColdLosses(diffusion, at_start)
    return JointLosses(diffusion, lam, at_start) if diffusion.objective.outputs == 2 else Losses(diffusion, at_start)


@contextmanager
def python_seeded(seed: int) -> Iterator[None]:
    """Seed Python's generator, which decides on self-conditioning, and restore its state afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
