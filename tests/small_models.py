"""Small models for tests: random weights, real structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule


def small_model(
    objective: str = "pred_res_noise",
    *,
    networks: str | None = None,
    condition: bool = True,
    input_condition: bool = False,
    self_condition: bool = False,
    seed: int = 0,
    dim: int = 16,
    **options: Any,
) -> ResidualDiffusion:
    """A model of `dim` channels and two stages for any objective, seeded."""
    torch.manual_seed(seed)
    unets = ResidualUnets(
        dim,
        networks=networks or ("two" if Objective[objective].outputs == 2 else "one"),
        dim_mults=[1, 2],
        condition=condition,
        input_condition=input_condition,
        self_condition=self_condition,
    )
    settings = {"sampling_timesteps": 3, "image_size": 16, **options}
    return ResidualDiffusion(
        unets,
        settings.pop("schedule", Schedule.triangular(1000, 0.01 if condition else 1.0)),
        objective=objective,
        condition=condition,
        input_condition=input_condition,
        **settings,
    ).eval()


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    """Images in [0, 1] of a shape, seeded."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def group_norm_cancellation(x: Tensor, groups: int, weight: Tensor, scale_shift: Tensor | None) -> Tensor:
    """What float32 loses where a value and the mean are each multiplied before they are subtracted.

    It matters where a group's variance is small beside its values.
    """
    x = x.double().reshape(x.shape[0], groups, -1)
    factor = (x.var(2, unbiased=False) + 1e-5).rsqrt().max() * weight.abs().max()
    scale = 1.0 if scale_shift is None else 1 + scale_shift.abs().max()
    return 2 * torch.finfo(torch.float32).eps * factor * scale * x.abs().max()
