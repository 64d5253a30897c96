"""Noise networks, such as DDPM's, as models for RDDM's sampler."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..theory.ddim import ddim_steps
from ..theory.objective import Objective
from ..theory.schedule import Schedule
from ..theory.steps import Step
from .residual import ResidualDiffusion


class NoiseNetwork(nn.Module):
    """A network epsilon(x, t), called the way `ResidualDiffusion(objective="pred_noise")` calls its networks.

    Args:
        network: called with (B, C, H, W) in [-1, 1] and indices (B,); returns the noise, as a tensor or in `.sample`.
        channels: C.
    """

    outputs = 1
    self_condition = False

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        noise = self.network(x, t)
        return noise if isinstance(noise, Tensor) else noise.sample


class NoiseDiffusion(ResidualDiffusion):
    """A pretrained noise network, sampled by RDDM's sampler with steps as `ddim_steps` makes them.

    Args:
        network: called with (B, C, H, W) in [-1, 1] and indices (B,), returns the noise.
        schedule: the coefficients that it was trained with: `Schedule.from_ddim`, or `theory.ddim.converted`.
        channels, image_size: number of channels of an image, and its height and width in pixels.
        sampling_timesteps, eta: number of steps of `sample`, and their stochasticity.
        clip: half-width of the clean image's clamp, and so of the residual's; None for no clamp.
        options: arguments of `ddim_steps`, for instance `form` and `spacing`.

    Raises:
        ValueError: steps or options that `ddim_steps` refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        channels: int,
        image_size: int,
        sampling_timesteps: int = 50,
        eta: float = 0.0,
        clip: float | None = 1.0,
        **options: Any,
    ) -> None:
        limit = math.inf if clip is None else clip
        self.options = options
        super().__init__(
            NoiseNetwork(network, channels),
            schedule,
            objective=Objective.pred_noise,
            image_size=image_size,
            sampling_timesteps=sampling_timesteps,
            eta=eta,
            clip_res=limit,
        )
        self.clip_0 = limit
        self.steps()  # A bad option raises here, not when sampling.

    def steps(self, sampling_timesteps: int | None = None, eta: float | None = None) -> list[Step]:
        """Return the reverse steps: `ddim_steps` with this model's options."""
        count = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        return ddim_steps(self.schedule, count, self.eta if eta is None else eta, **self.options)
