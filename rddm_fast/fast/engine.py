"""`FastSampler`: a model folded for its steps, called with images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion import ResidualDiffusion
from ..sampler import Predict, Step
from .fold import fold


class FastSampler:
    """Restore or generate with `diffusion`'s weights several times faster than its own loop, and the same images.

    Args:
        diffusion: a `ResidualDiffusion` (ours or `compat`'s) whose networks are `ResidualUnets`. It is left as
            it was; changing its weights later does not change this sampler.
        steps: sampling steps; the model's own if None.

    The networks are folded once, here (see `rddm_fast.fast.fold`), and each step is one call of
    `ops.reverse_step`. A seed gives the images that `diffusion.sample` gives, within float32 rounding.
    """

    def __init__(self, diffusion: ResidualDiffusion, *, steps: int | None = None, eta: float | None = None) -> None:
        self.diffusion = diffusion
        self.steps = diffusion.steps(steps, eta)
        # The tables are of these steps, whatever is set on the model later.
        self.sampling_timesteps = diffusion.sampling_timesteps if steps is None else steps
        self.eta = diffusion.eta if eta is None else eta
        indices = torch.tensor([step.t for step in self.steps], device=diffusion.alphas_cumsum.device)
        times = diffusion.network_times(indices)
        self.networks = fold(diffusion.model, times if isinstance(times, list) else [times, times])  # type: ignore[arg-type]

    def _predictor(self, _steps: Sequence[Step], I_in: Tensor | None, mask: Tensor | None) -> Predict:
        networks, only = self.networks, self.diffusion.read_outputs
        parts = self.diffusion.constant_input(I_in, mask)
        constant = networks.constant(torch.cat(parts, dim=1)) if parts else [None] * len(networks.members)

        def predict(number: int, _step: Step, I_t: Tensor, x_self_cond: Tensor | None) -> list[Tensor]:
            return networks(I_t, number, x_self_cond, only, constant)

        return predict

    def __call__(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1]; `options` as in `sample`."""
        return self.sample(images, mask, **options)[-1].clamp(0, 1)

    @torch.no_grad()
    def sample(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> list[Tensor]:
        """What `ResidualDiffusion.sample` returns, by the folded networks.

        `options` are that method's: batch_size, generator, draws, every_step, callback, progress.
        """
        # The class's own: `compat`'s subclass has the published arguments instead.
        return ResidualDiffusion.sample(
            self.diffusion,
            images,
            mask,
            sampling_timesteps=self.sampling_timesteps,
            eta=self.eta,
            predictor=self._predictor,
            **options,
        )
