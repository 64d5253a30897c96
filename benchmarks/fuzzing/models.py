"""A small model of each kind for the targets that damage a model's files, and the proof that what was loaded works."""

from __future__ import annotations

import random
from typing import Any

import torch

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.theory.schedule import Schedule


def small(rng: random.Random) -> ResidualDiffusion:
    """Return a model of 8 channels and two stages of a drawn kind, with random weights."""
    networks, objective = rng.choice(
        (("one", "pred_res"), ("one", "pred_noise"), ("two", "pred_res_noise"), ("shared", "pred_res_noise"))
    )
    sees: dict[str, Any] = {"condition": rng.random() < 0.8, "input_condition": rng.random() < 0.2}
    unets = ResidualUnets(8, networks=networks, dim_mults=[1, 2], self_condition=rng.random() < 0.2, **sees)
    schedules = (Schedule.triangular(20, 0.01), Schedule.power(20, 1.0), Schedule.from_ddim(20), Schedule.resshift(20))
    return ResidualDiffusion(
        unets, rng.choice(schedules), objective=objective, sampling_timesteps=2, image_size=8, **sees
    ).eval()


def use(diffusion: ResidualDiffusion) -> None:
    """Sample an image of 8 x 8 pixels; raise AssertionError if it has another shape."""
    image = torch.full((1, diffusion.channels, 8, 8), 0.5)
    given = [image] if diffusion.condition else []
    if diffusion.input_condition:
        given.append(torch.ones(1, 1 if diffusion.input_condition_mask else diffusion.channels, 8, 8))
    result = diffusion.sample(*given, batch_size=1, sampling_timesteps=1)[-1]
    assert result.shape == (1, diffusion.channels, 8, 8), f"an image of shape {tuple(result.shape)}"
