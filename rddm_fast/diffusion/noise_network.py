"""Noise networks, such as DDPM's, as models that RDDM's sampler samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..theory.ddim import ddim_steps
from ..theory.objective import Objective, stacked
from ..theory.schedule import Schedule
from ..theory.steps import Step
from .residual import ResidualDiffusion
from .reverse import reverse


class NoiseNetwork(nn.Module):
    """A network epsilon(x, t) as `ResidualDiffusion(objective="pred_noise")` calls its networks.

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
        schedule: the coefficients it was trained with: `Schedule.from_ddim`, or `converted`.
        channels, image_size: of an image; its side in pixels.
        sampling_timesteps, eta: steps of `sample`, and their stochasticity.
        clip: half-width of the clamp of the clean image (and so of the residual); None for none.
        options: of `ddim_steps`, for instance `form` and `spacing`.
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
        self.clip = math.inf if clip is None else clip
        self.options = options
        super().__init__(
            NoiseNetwork(network, channels),
            schedule,
            objective=Objective.pred_noise,
            image_size=image_size,
            sampling_timesteps=sampling_timesteps,
            eta=eta,
            clip_res=self.clip,
        )

    def steps(self, sampling_timesteps: int | None = None, eta: float | None = None) -> list[Step]:
        """`ddim_steps` with this model's options."""
        count = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        return ddim_steps(self.schedule, count, self.eta if eta is None else eta, **self.options)

    def walk(
        self,
        I_t: Tensor,
        steps: Iterable[Step],
        I_in: Tensor | None,
        mask: Tensor | None,
        draw: Callable[[], Tensor],
        on_step: Callable[[int, Step, Tensor], None] | None,
    ) -> Tensor:
        """From noise to image, in [-1, 1], with this model's clamp."""

        def predict(_number: int, step: Step, I_t: Tensor, _previous: Tensor | None) -> Sequence[Tensor]:
            t = torch.full((I_t.shape[0],), step.t, device=I_t.device, dtype=torch.long)
            return stacked(self.model(I_t, t))

        return reverse(
            predict,
            I_t,
            steps,
            objective=Objective.pred_noise,
            draw=lambda _like: draw(),
            clip_res=self.clip,
            clip_0=self.clip,
            on_step=on_step,
        )
