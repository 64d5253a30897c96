"""The reverse process of RDDM as one pure function: ask the network, step, repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.reverse_step import reverse_step
from ..theory.objective import Objective
from ..theory.steps import Step

Predict = Callable[[int, Step, Tensor, "Tensor | None"], Sequence[Tensor]]
"""The network at one step: takes the step's number, the step, I_t and the last I_0 or None; returns its outputs."""
OnStep = Callable[[int, Step, Tensor], None]
"""Called after every step with the step's number, the step and the image."""


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
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk `steps` from the noisy image to the clean one.

    Args:
        predict: the network.
        I_t: the noisy image, (B, C, H, W) in [-1, 1].
        steps: the steps, made by `theory.steps`.
        objective: the meaning of the network's outputs.
        I_in: the degraded image, of I_t's shape; None for generation.
        draw: called with I_t at every step that draws; returns standard normal noise of its shape.
        self_condition: pass each step's clean image to the next prediction.
        clip_res, clip_0: half-widths of the clamps of the residual and the clean image.
        on_step: called after every step.

    Returns:
        The image after the last step, (B, C, H, W).
    """
    known: dict[str, Any] = {"objective": objective, "I_in": I_in, "clip_res": clip_res, "clip_0": clip_0}
    I_0: Tensor | None = None
    for i, step in enumerate(steps):
        # Ask the network.
        out0, *more = predict(i, step, I_t, I_0)
        out1 = more[0] if more else None

        # Keep the clean image for the next call of the network.
        if self_condition:
            I_0 = reverse_step(I_t, out0, out1, **step.to_clean.numbers, **known)

        # Step from t to s, with fresh noise if the step is stochastic.
        I_t = reverse_step(I_t, out0, out1, **step.numbers, **known, noise=draw(I_t) if step.draws else None)

        # Show the image.
        if on_step is not None:
            on_step(i, step, I_t)
    return I_t
