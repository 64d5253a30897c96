"""A trained model of the noise, or of the clean image, as the prior of DDRM and DDNM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..theory.ddim import is_converted
from ..theory.objective import Objective, residual_to_noise
from ..theory.schedule import Schedule


@dataclass(frozen=True)
class Predictor:
    """The noise by `diffusion`, called as `predict(x_t, t)`.

    Attributes:
        diffusion: a model that `predictor` accepts.
        schedule: the coefficients that it was trained with; `restore` makes its steps from them.
    """

    diffusion: ResidualDiffusion
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        """Return the noise in `x_t` (B, C, H, W) at index `t`, computed in the model's precision, in that of `x_t`."""
        times = torch.full((x_t.shape[0],), t, device=x_t.device, dtype=torch.long)
        precision = next((p.dtype for p in self.diffusion.parameters()), x_t.dtype)
        out = self.diffusion.outputs(x_t.to(precision), times)[0].to(x_t.dtype)
        return noise_in(x_t, out, self.diffusion.objective, self.schedule, t)


def noise_in(x_t: Tensor, out: Tensor, objective: Objective, schedule: Schedule, t: int) -> Tensor:
    """Return the noise in `x_t` at index `t` from a model's output, which is the noise or the clean image."""
    if objective is Objective.pred_noise:
        return out
    return residual_to_noise(x_t, 0.0, -out, float(schedule.alpha_bar[t]), float(schedule.beta_bar[t]))


def predictor(diffusion: ResidualDiffusion) -> Predictor:
    """Return the prior `predict(x_t, t) -> epsilon` of a model.

    Args:
        diffusion: a `NoiseDiffusion`, or a model that generates images with the objective pred_noise or pred_x0.

    Raises:
        ValueError: a model that predicts something else, sees more than x_t, or was not trained with DDPM's noise.
    """
    if diffusion.objective not in (Objective.pred_noise, Objective.pred_x0):
        raise ValueError(
            f"a prior predicts the noise or the clean image (objective pred_noise or pred_x0), and this model's "
            f"objective is {diffusion.objective.name}: train one with pred_noise"
        )
    if diffusion.condition or diffusion.input_condition or diffusion.self_condition:
        raise ValueError(
            "a prior sees the noisy image alone, and this model also sees a degraded image, a mask or its own last "
            "result: train one that generates"
        )
    if not is_converted(diffusion.schedule):
        raise ValueError(
            "a prior is trained with DDPM's noise, where beta_bar^2 = 1 - (1 - alpha_bar)^2, and this model has "
            "another schedule: train one with Schedule.from_ddim"
        )
    return Predictor(diffusion, diffusion.schedule)
