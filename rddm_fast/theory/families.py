"""The families of schedules: each turns a recipe, a JSON object, into the coefficients that it describes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SHAPES = ("increased", "decreased", "average", "normal")


def increments(
    timesteps: int,
    shape: str,
    *,
    form: str = "power",
    ratio: float = 1.0,
    sum_scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the increments of one coefficient, shape (timesteps,), which sum to `sum_scale`.

    Args:
        timesteps: T, at least 1.
        shape: "increased", "decreased", "average" (1/T) or "normal" (a Gaussian bell over [-3, 3]).
        form: "power" (the later experiments), x**ratio over x = linspace(0, 1, T): the paper's P(x, a) is "increased"
            with ratio a, P(1 - x, a) is "decreased". "triangular" (deraining), i over i = 1..T, which is never 0.
        ratio: the exponent of "power"; "average" and "normal" ignore it.

    Raises:
        ValueError: another shape, form or number of steps.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown schedule shape {shape!r}: choose one of {', '.join(SHAPES)}")
    if form not in ("power", "triangular"):
        raise ValueError(f"unknown schedule form {form!r}: choose 'power' or 'triangular'")
    if timesteps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not timesteps={timesteps}")
    if shape == "average":
        return torch.full((timesteps,), 1 / timesteps, dtype=dtype) * sum_scale
    if shape == "normal":
        x = torch.linspace(-3, 3, timesteps, dtype=dtype)
        steps = torch.exp(-(x**2) / 2)
    elif form == "triangular":
        steps = torch.linspace(1, timesteps, timesteps, dtype=dtype)
    else:
        steps = torch.linspace(0, 1, timesteps, dtype=dtype) ** ratio
    if shape == "decreased":
        steps = steps.flip(0)
    return steps / steps.sum() * sum_scale


def ddim_betas(timesteps: int, beta_schedule: str = "linear", dtype: torch.dtype = torch.float64) -> Tensor:
    """Return DDPM's variances b_t, shape (timesteps,), by diffusers' name of the schedule.

    As in the published code, the range 1e-4 .. 0.02 is that of 1000 steps and is not rescaled for other numbers.
    """
    if beta_schedule == "linear":
        return torch.linspace(1e-4, 0.02, timesteps, dtype=dtype)
    if beta_schedule == "scaled_linear":
        return torch.linspace(1e-4**0.5, 0.02**0.5, timesteps, dtype=dtype) ** 2
    if beta_schedule == "squaredcos_cap_v2":

        def f(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        values = [min(1 - f((i + 1) / timesteps) / f(i / timesteps), 0.999) for i in range(timesteps)]
        return torch.tensor(values, dtype=dtype)
    raise ValueError(
        f"unknown beta_schedule {beta_schedule!r}: choose 'linear', 'scaled_linear' or 'squaredcos_cap_v2'"
    )


def _cumulated(alphas: Tensor, betas2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Rounding can end a cumulative sum slightly above 1, which would make 1 - alpha_bar negative.
    return alphas, betas2, alphas.cumsum(0).clip(0, 1), betas2.cumsum(0).clip(0, 1)


def _summed(recipe: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T, form = recipe["timesteps"], recipe["form"]
    a, b = recipe["alpha"], recipe["beta2"]
    alphas = increments(T, a["shape"], form=form, ratio=a.get("ratio", 1.0), dtype=dtype)
    betas2 = increments(T, b["shape"], form=form, ratio=b.get("ratio", 1.0), sum_scale=recipe["sum_scale"], dtype=dtype)
    return _cumulated(alphas, betas2)


def _differences(cumulated: Tensor, rebuilt: bool) -> Tensor:
    # The published constructor leaves the first increment 0; its `init()` copies the second one into it.
    increments = cumulated.diff(prepend=cumulated[:1])
    if rebuilt and len(increments) > 1:
        increments[0] = increments[1]
    return increments


def _from_ddim(recipe: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a = torch.cumprod(1 - ddim_betas(recipe["timesteps"], recipe["beta_schedule"], dtype), 0)
    alphas_cumsum, betas2_cumsum = 1 - a**0.5, 1 - a
    readjusted = recipe.get("alpha")
    if readjusted:
        P = increments(recipe["timesteps"], readjusted["shape"], ratio=readjusted.get("ratio", 1.0), dtype=dtype)
        alphas_cumsum = P.cumsum(0).clip(0, 1)
    rebuilt = recipe.get("boundary") == "test"
    return (
        _differences(alphas_cumsum, rebuilt),
        _differences(betas2_cumsum, rebuilt),
        alphas_cumsum,
        betas2_cumsum,
    )


def from_curves(alpha_bar: Tensor, beta_bar: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    beta2_bar = beta_bar**2
    zero = torch.zeros(1, dtype=alpha_bar.dtype)
    return alpha_bar.diff(prepend=zero), beta2_bar.diff(prepend=zero), alpha_bar, beta2_bar


def _resshift(recipe: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T, kappa, power = recipe["timesteps"], recipe["kappa"], recipe["power"]
    first, last = recipe["min_noise_level"] / kappa, 0.99
    steps = torch.linspace(0, 1, T, dtype=dtype) ** power
    root = first * (last / first) ** steps
    return from_curves(root**2, kappa * root)


def _ir_sde(recipe: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T = recipe["timesteps"]
    theta_bar = -math.log(recipe["eps"]) * torch.linspace(1 / T, 1, T, dtype=dtype)
    variance = (recipe["max_sigma"] / 255) ** 2 * (1 - torch.exp(-2 * theta_bar))
    # Its sigma is given for images in [0, 1]; ours are in [-1, 1].
    return from_curves(1 - torch.exp(-theta_bar), 2 * variance.sqrt())


def _straight(recipe: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T = recipe["timesteps"]
    line = torch.linspace(1 / T, 1, T, dtype=dtype)
    return from_curves(line, recipe["sum_scale"] ** 0.5 * line)


def delta_increments(timesteps: int, delta_end: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the shares of the degraded image that DiffUIR's forward process takes away, shape (timesteps,).

    They grow from 1e-6 to `delta_end`, as in the code of DiffUIR (Zheng et al., CVPR 2024).
    """
    return torch.linspace(1e-6, delta_end, timesteps, dtype=dtype)


FAMILIES: dict[str, Callable[[dict[str, Any], torch.dtype], tuple[Tensor, Tensor, Tensor, Tensor]]] = {
    "triangular": _summed,
    "power": _summed,
    "ddim": _from_ddim,
    "resshift": _resshift,
    "ir_sde": _ir_sde,
    "straight": _straight,
}
