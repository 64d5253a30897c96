"""DDPM and DDIM as coefficients of RDDM: pretrained noise networks, sampled by RDDM's sampler.

With I_in = 0, so that I_res = -I_0, and a_t the cumulative product of 1 - b_i of DDPM (Ho et al., 2020),

    alpha_bar_t = 1 - sqrt(a_t)        beta_bar_t = sqrt(1 - a_t)        (RDDM's coefficient transformation)

RDDM's forward process equals DDPM's, and its step of eta = 0 equals DDIM's (Song et al., 2021). `ddim_steps` makes such
steps with RDDM's, DDIM's or DDPM's variance, and `PRESETS` names the usual samplers:

    images = diffusion.sample(steps=ddim_steps(diffusion.schedule, 10, **PRESETS["ddim"]))[-1]

`rddm_fast.models.from_diffusers` reads the pipelines that diffusers saves.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .families import increments
from .schedule import LAST_ONE_MINUS_ALPHA_BAR, Schedule
from .steps import Step, check_eta, step_indices

FORMS = ("rddm", "ddim", "ddpm")
VARIANCES = ("rddm", "ddim", "large")
SPACINGS = ("rddm", "leading", "trailing", "linspace")

PRESETS: dict[str, dict[str, Any]] = {
    "rddm": {"form": "rddm", "variance": "rddm", "eta": 0.0},
    "ddim": {"form": "ddim", "variance": "ddim", "eta": 0.0},
    "ddpm": {"form": "ddpm", "variance": "ddim", "eta": 1.0},
    "ddpm_large": {"form": "ddpm", "variance": "large", "eta": 1.0},
}
"""Samplers by name, as arguments of `ddim_steps`. "ddpm" has the variance that diffusers calls "fixed_small", and
"ddpm_large" the one it calls "fixed_large"."""


def converted(betas: Tensor) -> Schedule:
    """Convert DDPM's variances b_t, a floating-point tensor (T,), to a schedule by the coefficient transformation.

    The product a_t is computed in the tensor's own precision. A network trained in float32 saw the float32 product. At
    t = 0, where 1 - a_t is small, it differs from the exact one by parts in a thousand.

    Raises:
        ValueError: a variance outside (0, 1). At 1 no signal would be left.
    """
    if betas.dim() != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
        raise ValueError("DDPM's variances (betas) must be a table of numbers above 0 and below 1")
    a = torch.cumprod(1 - betas, 0).double().cpu()
    return Schedule.from_tables(1 - a.sqrt(), (1 - a).sqrt(), sum_scale=1.0)


def readjusted_alpha(schedule: Schedule, shape: str, ratio: float = 1.0) -> Schedule:
    """Make the schedule that follows another alpha_bar and keeps beta_bar, for `ddim_steps(readjusted=)`.

    Args:
        schedule: the trained one.
        shape, ratio: alpha_bar is the cumulative sum of these increments (`families.increments`), in float64 as
            published. The paper's P(1 - x, a) is "decreased" with ratio a, P(x, a) is "increased".

    Raises:
        ValueError: an unknown shape.
    """
    alpha_bar = increments(schedule.timesteps, shape, ratio=ratio).cumsum(0).clip(0, 1)
    return Schedule.from_tables(alpha_bar, schedule.beta_bar, schedule.sum_scale)


def ddim_steps(
    schedule: Schedule,
    count: int,
    eta: float = 0.0,
    *,
    form: str = "rddm",
    variance: str = "rddm",
    spacing: str = "rddm",
    steps_offset: int = 0,
    set_alpha_to_one: bool = True,
    fixed_stride: bool = False,
    readjusted: Schedule | None = None,
) -> list[Step]:
    """Make the reverse steps of a noise network (objective "pred_noise", I_in = 0), for `sample(steps=)`.

    The last step adds no noise to the clean image.

    Args:
        schedule: the coefficients that the network was trained with.
        count: number of steps.
        eta: stochasticity, 0 to 1. It multiplies the variance of "rddm", and the standard deviation of the others.
        form: the quantities that the step combines. All forms agree until a clamp is active.
            "rddm": I_t - Delta alpha_bar I_res - (beta_bar_t - sqrt(beta_bar_s^2 - sigma^2)) epsilon, with the residual
            clamped. "ddim": sqrt(a_s) I_0 + sqrt(1 - a_s - sigma^2) epsilon, with the clean image clamped. "ddpm", for
            eta = 1: the posterior's mean of I_t and the clamped clean image.
        variance: the variance of the noise that a step adds.
            "rddm" (sum-constrained): eta (beta_bar_t^2 - beta_bar_s^2) beta_bar_s^2 / beta_bar_t^2. "ddim": eta^2 times
            the same without eta, divided by a_s; at eta = 1 it is DDPM's smaller variance. "large": the mean of "ddim"
            with DDPM's larger variance, 1 - a_t / a_s.
        spacing: the rule for the indices visited: "rddm", or one of diffusers' names.
        steps_offset: added to the indices of "leading".
        set_alpha_to_one: if true the last step leads to the clean image, otherwise to the noise level of index 0.
        fixed_stride: each step leads to t - T // count, as in diffusers' DDIMScheduler, even if "linspace" visits
            another index next.
        readjusted: another schedule whose alpha_bar the image follows, without retraining. The read-out of the
            residual still divides by the trained alpha_bar. Only in the form "rddm".

    Raises:
        ValueError: an unknown name, a count or an index out of range, or a variance or form of DDIM or DDPM for a
            schedule that is not a converted one.
    """
    for what, name, names in (("form", form, FORMS), ("variance", variance, VARIANCES), ("spacing", spacing, SPACINGS)):
        if name not in names:
            raise ValueError(f"{what} is {name!r}: choose one of {', '.join(names)}")
    check_eta(eta)
    if form == "ddpm" and (eta != 1 or variance == "rddm"):
        raise ValueError("the form 'ddpm' is that of eta=1 with the variance 'ddim' or 'large'")
    if (form, variance) != ("rddm", "rddm") and not is_converted(schedule):
        raise ValueError(
            "DDIM's forms and variances need beta_bar^2 = 1 - (1 - alpha_bar)^2, as Schedule.from_ddim has it: take "
            "form='rddm' and variance='rddm', or pass an adjusted schedule as readjusted="
        )
    if readjusted is not None and (form != "rddm" or readjusted.timesteps != schedule.timesteps):
        raise ValueError(f"a readjusted schedule is one of {schedule.timesteps} steps, for the form 'rddm'")
    indices = _indices(schedule.timesteps, count, spacing, steps_offset)
    stride = schedule.timesteps // count
    ends = [max(t - stride, -1) if fixed_stride else s for t, s in pairwise(indices)]
    followed = schedule if readjusted is None else readjusted

    def at(t: int) -> tuple[float, float, float]:
        """alpha_bar as trained, alpha_bar as followed, and beta_bar."""
        t = 0 if t < 0 and not set_alpha_to_one else t
        return schedule.alpha_bar_at(t), followed.alpha_bar_at(t), schedule.beta_bar_at(t)

    return [_step(t, s, at(t), at(s), eta, form, variance) for t, s in zip(indices, ends, strict=False)]


def _step(
    t: int, s: int, at_t: tuple[float, float, float], at_s: tuple[float, float, float], eta: float, form: str, kind: str
) -> Step:
    (alpha_bar, followed_t, beta_bar), (alpha_bar_s, followed_s, beta_bar_s) = at_t, at_s
    root_t, root_s = 1 - alpha_bar, 1 - alpha_bar_s  # the roots of a_t and a_s
    between = max(beta_bar**2 - beta_bar_s**2, 0.0)
    share = beta_bar_s**2 / beta_bar**2 if beta_bar else 0.0
    sigma2 = between * share * (eta if kind == "rddm" else eta**2 / root_s**2)
    epsilon = math.sqrt(max(beta_bar_s**2 - sigma2, 0.0))
    if kind == "large" and beta_bar_s > 0:
        sigma2 = eta**2 * between / root_s**2
    if form == "rddm":
        k_t, k_res, k_noise, k_0 = 1.0, -(followed_t - followed_s), -(beta_bar - epsilon), 0.0
    elif form == "ddim":
        k_t, k_res, k_noise, k_0 = 0.0, 0.0, epsilon, root_s
    else:
        k_t, k_res, k_noise, k_0 = root_t / root_s * share, 0.0, 0.0, (1 - share) / root_s
    return Step(
        t,
        s,
        alpha_bar,
        beta_bar,
        one_minus_alpha_bar=max(root_t, LAST_ONE_MINUS_ALPHA_BAR),
        k_t=k_t,
        k_res=k_res,
        k_noise=k_noise,
        k_0=k_0,
        sigma=math.sqrt(sigma2),
        draws=eta > 0 and (s >= 0 or sigma2 > 0),
    )


def is_converted(schedule: Schedule) -> bool:
    """Return whether the schedule is one of DDPM's: beta_bar_t^2 = 1 - (1 - alpha_bar_t)^2 for every t."""
    return bool(np.allclose(schedule.beta_bar**2, 1 - (1 - schedule.alpha_bar) ** 2, rtol=0, atol=1e-6))


def _indices(timesteps: int, count: int, spacing: str, steps_offset: int) -> list[int]:
    """Return the indices visited, in descending order, followed by -1."""
    indices = step_indices(timesteps, count)  # It also raises for a count out of range.
    if spacing == "rddm":
        return indices
    upwards: npt.NDArray[Any]
    if spacing == "leading":
        upwards = np.arange(count) * (timesteps // count) + steps_offset
    elif spacing == "trailing":
        upwards = np.round(np.arange(timesteps, 0, -timesteps / count)[:count])[::-1] - 1
    else:
        upwards = np.linspace(0, timesteps - 1, count).round()
    if upwards[-1] >= timesteps:
        raise ValueError(f"steps_offset={steps_offset} leads beyond the last index {timesteps - 1}: take fewer steps")
    return [*map(int, upwards[::-1]), -1]
