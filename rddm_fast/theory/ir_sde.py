"""IR-SDE (Luo et al., ICML 2023) as coefficients of RDDM: its schedules of theta, and the steps of its three samplers.

Its process pulls an image towards the degraded one, mu = I_in, with theta_bar_t the integral of theta up to t:

    x_t = mu + (x_0 - mu) exp(-theta_bar_t) + lambda sqrt(1 - exp(-2 theta_bar_t)) epsilon

so alpha_bar_t = 1 - exp(-theta_bar_t), and beta_bar_t is the factor of epsilon. The marginals are RDDM's, but the chain
multiplies where RDDM's adds. Its posterior has another variance than RDDM's, and its two other samplers are Euler's
steps of the reverse SDE and of its ODE. Its networks predict epsilon, and nothing is clamped:

    diffusion = ResidualDiffusion(network, ir_sde_schedule(), objective="pred_noise", condition=True, clip_res=math.inf)
    diffusion.clip_0 = math.inf
    images = diffusion.sample(I_in, steps=ir_sde_steps(diffusion.schedule, sampler="sde"))[-1]
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .schedule import Schedule
from .steps import Step, step_indices

THETAS = ("cosine", "linear", "constant")
SAMPLERS = ("posterior", "sde", "ode")


def ir_sde_schedule(
    timesteps: int = 100, max_sigma: float = 10.0, eps: float = 0.005, theta: str = "cosine"
) -> Schedule:
    """Make the schedule of the published code, in float64. The defaults are those of its deraining configuration.

    `Schedule.ir_sde` has the same tables as "constant", and a recipe that a model's JSON holds.

    Args:
        timesteps: T.
        max_sigma: lambda in grey levels of 0 .. 255. Sampling starts from I_in and noise of this deviation.
        eps: exp(-theta_bar_T), the share of the residual that is left at the end; above 0 and below 1.
        theta: how theta changes with t: "cosine", "linear" or "constant".

    Raises:
        ValueError: an unknown name, or a number out of range.
    """
    if theta not in THETAS:
        raise ValueError(f"theta is {theta!r}: choose one of {', '.join(THETAS)}")
    if timesteps < 1 or not max_sigma > 0 or not 0 < eps < 1:
        raise ValueError(
            f"timesteps={timesteps}, max_sigma={max_sigma}, eps={eps}: IR-SDE needs at least 1 step, a max_sigma above "
            "0, and an eps between 0 and 1"
        )
    # As published, the first of these T + 1 values is never used.
    cumulated = np.cumsum(_thetas(timesteps, theta)[1:])
    kept = np.exp(math.log(eps) * cumulated / cumulated[-1])  # exp(-theta_bar_t)
    scale = 2 * max_sigma / 255  # its images are in [0, 1], ours in [-1, 1]
    return Schedule.from_tables(1 - kept, scale * np.sqrt(1 - kept**2), sum_scale=scale**2)


def _thetas(timesteps: int, theta: str) -> npt.NDArray[np.float64]:
    """Return theta at t = 0 .. T, up to a factor, as in the published code."""
    if theta == "constant":
        return np.ones(timesteps + 1)
    if theta == "linear":
        return np.linspace(1e-4, 0.02, timesteps + 1)
    u = np.arange(timesteps + 2) / (timesteps + 2)
    curve = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - curve[1:] / curve[0]


def ir_sde_steps(schedule: Schedule, count: int | None = None, sampler: str = "posterior") -> list[Step]:
    """Make the reverse steps of IR-SDE, for `sample(steps=)` with the objective "pred_noise" and without clamps.

    With A = exp(-theta_bar_t), C = exp(-theta_bar_s) and Theta = log(C / A), the integral of theta from s to t:

    - "posterior" draws from q(x_s | x_t, x_0): RDDM's generalised step of eta = 1 with its variance divided by C^2,
      lambda^2 (1 - A^2 / C^2) (1 - C^2) / (1 - A^2). The last step takes the clean image.
    - "sde" is Euler's step of the reverse SDE, x_t - Theta (mu - x_t) - (2 lambda^2 Theta / beta_bar_t) epsilon -
      lambda sqrt(2 Theta) z. As published, the last step adds noise too.
    - "ode" is Euler's step of its ODE: half of the share of epsilon, and no noise.

    Euler's steps are written in I_res and epsilon, of which x_t - mu = -A I_res + beta_bar_t epsilon consists.

    Args:
        schedule: `ir_sde_schedule` or `Schedule.ir_sde`.
        count: number of steps; None for T, as published.
        sampler: "posterior", "sde" or "ode".

    Raises:
        ValueError: an unknown sampler, a count out of range, or a schedule that is not one of IR-SDE's.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    variance = _stationary_variance(schedule)
    indices = step_indices(schedule.timesteps, schedule.timesteps if count is None else count)
    make = _posterior if sampler == "posterior" else _euler
    return [make(schedule, t, s, variance, sampler == "sde") for t, s in pairwise(indices)]


def _stationary_variance(schedule: Schedule) -> float:
    """Return lambda^2, the variance that the process tends to."""
    variances = schedule.beta_bar**2 / (1 - (1 - schedule.alpha_bar) ** 2).clip(1e-300)
    if schedule.alpha_bar[-1] >= 1 or not np.allclose(variances, variances[-1], rtol=1e-4, atol=0):
        raise ValueError(
            "IR-SDE's steps need beta_bar_t^2 = lambda^2 (1 - (1 - alpha_bar_t)^2) and alpha_bar_T below 1: make the "
            "schedule with ir_sde_schedule or Schedule.ir_sde"
        )
    return float(variances[-1])


def _posterior(schedule: Schedule, t: int, s: int, variance: float, _noisy: bool) -> Step:
    A, C = 1 - schedule.alpha_bar_at(t), 1 - schedule.alpha_bar_at(s)
    beta_bar = schedule.beta_bar_at(t)
    sigma2 = variance * (1 - A**2 / C**2) * (1 - C**2) / (1 - A**2)
    epsilon = math.sqrt(max(schedule.beta_bar_at(s) ** 2 - sigma2, 0.0))
    step = Step(t, s, 1 - A, beta_bar, A, 1.0, A - C, epsilon - beta_bar, 0.0, math.sqrt(sigma2), draws=True)
    return step if s >= 0 else step.to_clean


def _euler(schedule: Schedule, t: int, s: int, variance: float, noisy: bool) -> Step:
    A, beta_bar = 1 - schedule.alpha_bar_at(t), schedule.beta_bar_at(t)
    integral = math.log((1 - schedule.alpha_bar_at(s)) / A)
    share = (2 if noisy else 1) * variance
    # The published code subtracts its noise.
    sigma = -math.sqrt(2 * variance * integral) if noisy else 0.0
    k_noise = integral * (beta_bar - share / beta_bar)
    return Step(t, s, 1 - A, beta_bar, A, 1.0, -integral * A, k_noise, 0.0, sigma, draws=noisy)
