"""The reverse process of RDDM as one pure function in the paper's notation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..ops.reverse_step import reverse_step
from ..theory.objective import Objective
from ..theory.steps import Step

Predict = Callable[[int, Step, Tensor, "Tensor | None"], Sequence[Tensor]]
"""(number of the step, the step, I_t, previous I_0 or None) to the network's one or two outputs."""


def reverse(
    predict: Predict,
    I_t: Tensor,
    steps: Iterable[Step],
    *,
    objective: Objective,
    I_in: Tensor | None = None,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
    self_condition: bool = False,
    clip_res: float = 1.0,
    clip_0: float = 1.0,
    on_step: Callable[[int, Step, Tensor], None] | None = None,
    update: Callable[..., Tensor] = reverse_step,
) -> Tensor:
    """Walk `steps` from the noisy image `I_t` (B, C, H, W) in [-1, 1] to the clean one.

    `I_in` is the degraded image, None for generation. `draw(I_t)` yields the normal draws of the stochastic
    steps. With `self_condition` each step's clean image is passed to the next prediction. `on_step` is called
    after every step with its number, the step and the image. `update` is the reverse update, fused by default.
    """
    previous_I_0: Tensor | None = None
    for i, step in enumerate(steps):
        outputs = tuple(predict(i, step, I_t, previous_I_0))
        out0, out1 = outputs if len(outputs) == 2 else (outputs[0], None)
        known = dict(
            objective=objective,
            alpha_bar=step.alpha_bar,
            beta_bar=step.beta_bar,
            one_minus_alpha_bar=step.one_minus_alpha_bar,
            I_in=I_in if objective.needs_input else None,
            clip_res=clip_res,
            clip_0=clip_0,
        )
        if self_condition:
            previous_I_0 = update(I_t, out0, out1, k_t=0.0, k_res=0.0, k_noise=0.0, k_0=1.0, **known)
        I_t = update(
            I_t,
            out0,
            out1,
            k_t=step.k_t,
            k_res=step.k_res,
            k_noise=step.k_noise,
            k_0=step.k_0,
            sigma=step.sigma,
            noise=draw(I_t) if step.draws else None,
            **known,
        )
        if on_step is not None:
            on_step(i, step, I_t)
    return I_t
