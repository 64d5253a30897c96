"""Reverse steps: a sampler is a list of `Step`s, whose coefficients are Python floats in float64.

Every step is a linear form, so one fused kernel, `ops.reverse_step`, serves every sampler:

    I_s = k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + k_in I_in + sigma z

`few_steps` makes the generalised (DDIM-like) steps, `ancestral_steps` the full-length posterior sampler, `path` the
steps of partially path-independent generation. `model_steps` chooses among them, `step_between` makes one alone.
`diffusion.reverse` walks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from .schedule import Schedule


@dataclass(frozen=True)
class Step:
    """One reverse step from index `t` to the earlier index `s` (-1: the clean image).

    Attributes:
        alpha_bar, beta_bar, one_minus_alpha_bar: the schedule at `t`; the network's outputs are read out with them.
        k_t, k_res, k_noise, k_0, k_in, sigma: the coefficients of the linear form above.
        draws: whether the published loop draws noise at this step. It draws even where sigma is 0, and the order of
            the draws depends on it.
    """

    t: int
    s: int
    alpha_bar: float
    beta_bar: float
    one_minus_alpha_bar: float
    k_t: float
    k_res: float
    k_noise: float
    k_0: float
    sigma: float
    draws: bool
    k_in: float = 0.0

    @property
    def numbers(self) -> dict[str, Any]:
        """Return the keyword arguments of `ops.reverse_step`. They are also a row of `ops.StepTable`."""
        return {name: getattr(self, name) for name in _NUMBERS}

    @property
    def to_clean(self) -> Step:
        """Return the step from `t` straight to the clean image."""
        return replace(self, s=-1, k_t=0.0, k_res=0.0, k_noise=0.0, k_0=1.0, k_in=0.0, sigma=0.0, draws=False)


_NUMBERS = ("alpha_bar", "beta_bar", "one_minus_alpha_bar", "k_t", "k_res", "k_noise", "k_0", "k_in", "sigma")


def step_indices(timesteps: int, sampling_timesteps: int, *, exact: bool = False) -> list[int]:
    """Return the `sampling_timesteps + 1` indices visited, from T - 1 down to -1.

    The published code rounds a float32 linspace, so for some counts an index is one lower than exact arithmetic gives.
    `exact=True` uses exact arithmetic.

    Raises:
        ValueError: a count outside 1 to T.
    """
    if not 1 <= sampling_timesteps <= timesteps:
        raise ValueError(
            f"sampling_timesteps must be between 1 and the schedule's {timesteps} steps, not {sampling_timesteps}"
        )
    if exact:
        forward = [i * timesteps // sampling_timesteps - 1 for i in range(sampling_timesteps + 1)]
    else:
        forward = torch.linspace(-1, timesteps - 1, sampling_timesteps + 1, dtype=torch.float32).int().tolist()
    return forward[::-1]


def check_eta(eta: float) -> None:
    """Raise ValueError unless eta is between 0 and 1."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be between 0 (deterministic) and 1 (posterior), not {eta}")


def few_steps(schedule: Schedule, sampling_timesteps: int, eta: float = 0.0, *, exact: bool = False) -> list[Step]:
    """Make the steps of the generalised sampler (RDDM, eq. 13 and its DDIM-like form).

    With Delta alpha_bar = alpha_bar_t - alpha_bar_s and sigma^2 = eta (beta_bar_t^2 - beta_bar_s^2)
    beta_bar_s^2 / beta_bar_t^2:

        I_s = I_t - Delta alpha_bar I_res - (beta_bar_t - sqrt(beta_bar_s^2 - sigma^2)) epsilon + sigma z

    The last step takes the clean image. eta = 0 is deterministic, eta = 1 samples the posterior. eta multiplies the
    variance; DDIM's eta multiplies the standard deviation.

    Raises:
        ValueError: a count or an eta out of range.
    """
    check_eta(eta)
    indices = step_indices(schedule.timesteps, sampling_timesteps, exact=exact)
    return [_generalised(schedule, t, s, eta) for t, s in pairwise(indices)]


def step_between(schedule: Schedule, t: int, s: int, eta: float = 0.0) -> Step:
    """Make the step from index `t` to any earlier index `s`, -1 for the clean image: that of `few_steps`.

    For a schedule with delta_bar it is that of `diffuir_steps`.

    Raises:
        ValueError: indices that are not -1 <= s < t < T, or an eta out of range.
    """
    check_eta(eta)
    if not -1 <= s < t < schedule.timesteps:
        raise ValueError(f"a step leads from an index up to {schedule.timesteps - 1} to an earlier one, not {t} to {s}")
    step = _generalised(schedule, t, s, eta)
    return step if schedule.delta_bar is None else _putting_back(schedule, step)


def _generalised(schedule: Schedule, t: int, s: int, eta: float) -> Step:
    alpha_bar, beta_bar = schedule.alpha_bar_at(t), schedule.beta_bar_at(t)
    one_minus = schedule.one_minus_alpha_bar_at(t)
    if s < 0:  # the last step takes the clean image
        return Step(t, s, alpha_bar, beta_bar, one_minus, 0.0, 0.0, 0.0, 1.0, 0.0, draws=False)
    variance_s, variance_t = schedule.beta_bar_at(s) ** 2, beta_bar**2
    sigma2 = eta * (variance_t - variance_s) * variance_s / variance_t if variance_t else 0.0
    return Step(
        t,
        s,
        alpha_bar,
        beta_bar,
        one_minus,
        k_t=1.0,
        k_res=-(alpha_bar - schedule.alpha_bar_at(s)),
        k_noise=-(beta_bar - (variance_s - sigma2) ** 0.5),
        k_0=0.0,
        sigma=sigma2**0.5,
        draws=eta != 0,
    )


def ancestral_steps(schedule: Schedule) -> list[Step]:
    """Make the steps of the full-length sampler, which visits every index and draws from q(I_{t-1} | I_t, I_0, I_res).

    The posterior's mean is c1 I_t + c2 I_res + c3 I_0, its variance v, from the published buffers (RDDM, appendix A).
    """
    table = {name: values.double().tolist() for name, values in schedule.buffers().items()}

    def posterior(t: int) -> Step:
        if schedule.beta_bar_at(t) == 0:  # without noise the posterior is the step of eta = 0
            return replace(_generalised(schedule, t, t - 1, 0.0), draws=t > 0)
        return Step(
            t,
            t - 1,
            schedule.alpha_bar_at(t),
            schedule.beta_bar_at(t),
            schedule.one_minus_alpha_bar_at(t),
            k_t=table["posterior_mean_coef1"][t],
            k_res=table["posterior_mean_coef2"][t],
            k_noise=0.0,
            k_0=table["posterior_mean_coef3"][t],
            sigma=table["posterior_variance"][t] ** 0.5 if t else 0.0,
            draws=t > 0,
        )

    return [posterior(t) for t in reversed(range(schedule.timesteps))]


def diffuir_steps(schedule: Schedule, count: int, eta: float = 0.0) -> list[Step]:
    """Make the steps of DiffUIR (Zheng et al., CVPR 2024) for a schedule with delta_bar.

        I_s = I_t - Delta alpha_bar I_res + Delta delta_bar I_in + sigma z

    with the sigma of `few_steps`. As in its code, no step removes noise; the last one takes the clean image.

    Raises:
        ValueError: a count or an eta out of range, or a schedule without delta_bar.
    """
    if schedule.delta_bar is None:
        raise ValueError("DiffUIR's steps need a schedule with delta_bar: Schedule.diffuir")

    return [_putting_back(schedule, step) for step in few_steps(schedule, count, eta)]


def _putting_back(schedule: Schedule, step: Step) -> Step:
    """Turn a generalised step into DiffUIR's."""
    put_back = schedule.delta_bar_at(step.t) - schedule.delta_bar_at(step.s)
    return step if step.s < 0 else replace(step, k_noise=0.0, k_in=put_back)


ORDERS = ("together", "residual_first", "noise_first")


def path(schedule: Schedule, count: int, order: str = "together") -> list[Step]:
    """Make the steps of a path of (alpha_bar, beta_bar) to (0, 0) over `count` indices of `schedule` (RDDM, section 4).

    Args:
        order: "together" moves both coefficients, in `count` steps of two network calls. "residual_first" and
            "noise_first" move one coefficient to 0 and then the other, in 2 `count` steps of one call.

    A step's `alpha_bar` and `beta_bar` belong to the image that the step starts from; the networks see them as times.

    Raises:
        ValueError: an unknown order, or a count outside 1 to T.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}: choose one of {', '.join(ORDERS)}")
    indices = step_indices(schedule.timesteps, count)
    # A leg is (t, s, whether alpha_bar moves, whether beta_bar moves).
    residual, noise, both = ([(t, s, *moves) for t, s in pairwise(indices)] for moves in ((1, 0), (0, 1), (1, 1)))
    legs = {"together": both, "residual_first": residual + noise, "noise_first": noise + residual}[order]
    alpha_bar, beta_bar = schedule.alpha_bar_at(indices[0]), schedule.beta_bar_at(indices[0])
    steps = []
    for t, s, moves_alpha, moves_beta in legs:
        to_alpha = schedule.alpha_bar_at(s) if moves_alpha else alpha_bar
        to_beta = schedule.beta_bar_at(s) if moves_beta else beta_bar
        steps.append(
            Step(
                t,
                s,
                alpha_bar=alpha_bar,
                beta_bar=beta_bar,
                one_minus_alpha_bar=schedule.one_minus_alpha_bar_at(t),
                k_t=1.0,
                k_res=to_alpha - alpha_bar,
                k_noise=to_beta - beta_bar,
                k_0=0.0,
                sigma=0.0,
                draws=False,
            )
        )
        alpha_bar, beta_bar = to_alpha, to_beta
    return steps


def two_pass(steps: Sequence[Step]) -> list[Step]:
    """Make the steps of the published path-independent experiment: a pass for the residual, then one for the noise.

    Both networks are evaluated at every step, in the second pass at coefficients that its image no longer has, and each
    pass ends by taking the clean image. Unlike `path`, it does not recover I_0 from exact predictions. It exists to
    reproduce the published images.
    """
    return [replace(step, k_noise=0.0) for step in steps] + [replace(step, k_res=0.0) for step in steps]


def model_steps(
    schedule: Schedule, sampling_timesteps: int, eta: float = 0.0, *, official_two_pass: bool = False
) -> list[Step]:
    """Make the steps that a model samples with: ancestral for T steps, few for fewer, DiffUIR's if there is delta_bar.

    Args:
        official_two_pass: few steps take a pass for the residual, then one for the noise (`two_pass`).

    Raises:
        ValueError: a count or an eta out of range.
    """
    if schedule.delta_bar is not None:
        return diffuir_steps(schedule, sampling_timesteps, eta)
    if sampling_timesteps == schedule.timesteps:
        return ancestral_steps(schedule)
    steps = few_steps(schedule, sampling_timesteps, eta)
    return two_pass(steps) if official_two_pass else steps
