"""The coefficient schedules of RDDM: alpha_bar and beta_bar in float64 on the host.

    I_t = I_0 + alpha_bar_t * I_res + beta_bar_t * epsilon          (RDDM, eq. 7)
    I_t = I_0 + alpha_bar_t * I_res + beta_bar_t * epsilon - delta_bar_t * I_in          (DiffUIR)

alpha_bar_t is the cumulative sum of the residual increments alpha_t. beta_bar_t is the root of the cumulative
sum of the noise-variance increments beta_t^2. Index t = 0 .. T-1 is the paper's step t + 1. Index -1 is the clean
image, where both are 0.

A `Schedule` is two tables and the recipe that made them (`theory.families`). A model's JSON holds the recipe, the
sampler reads the tables as Python floats, and `buffers()` makes the tensors that the published class registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .families import FAMILIES, delta_increments, from_curves

BUFFER_NAMES = (
    "alphas",
    "alphas_cumsum",
    "one_minus_alphas_cumsum",
    "betas2",
    "betas",
    "betas2_cumsum",
    "betas_cumsum",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_mean_coef3",
    "posterior_variance",
    "posterior_log_variance_clipped",
)
"""The buffers of the published class, in the order in which it registers them."""

DELTA_NAMES = ("delta", "delta_cumsum")
"""The buffers that DiffUIR's class has besides."""

LAST_ONE_MINUS_ALPHA_BAR = 1e-6
"""The published value of 1 - alpha_bar at the last index. SM-N divides by it."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """alpha_bar and beta_bar, float64 arrays of shape (T,), and the recipe they come from.

    `sum_scale` is the variance of the noise that sampling starts from; in the summed families it is beta_bar_T^2.
    `delta_bar` is DiffUIR's third table, (T,), or None.

    Raises:
        ValueError: tables of different lengths, or a table that decreases.
    """

    alpha_bar: np.ndarray
    beta_bar: np.ndarray
    sum_scale: float
    recipe: dict[str, Any] = field(default_factory=dict)
    delta_bar: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.alpha_bar.shape != self.beta_bar.shape or self.alpha_bar.ndim != 1 or not len(self.alpha_bar):
            raise ValueError(
                f"a schedule is two tables of one length, not {self.alpha_bar.shape} and {self.beta_bar.shape}"
            )
        tables = [self.alpha_bar, self.beta_bar, *([] if self.delta_bar is None else [self.delta_bar])]
        if not all(np.isfinite(table).all() for table in tables) or not math.isfinite(self.sum_scale):
            raise ValueError("a schedule has numbers that are not finite: make it with other settings")
        if (np.diff(self.alpha_bar) < -1e-6).any() or (np.diff(self.beta_bar) < -1e-6).any():
            raise ValueError("alpha_bar and beta_bar must not decrease with t: they are cumulative sums")
        if self.delta_bar is not None and self.delta_bar.shape != self.alpha_bar.shape:
            raise ValueError(f"delta_bar has shape {self.delta_bar.shape} and alpha_bar {self.alpha_bar.shape}")

    # -- the families -------------------------------------------------------------------------------------

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any]) -> Schedule:
        """Make the schedule of a recipe, a JSON object in a model's config. Raises ValueError for an unknown family."""
        family = recipe.get("family")
        if family not in FAMILIES:
            raise ValueError(f"unknown schedule family {family!r}: choose one of {', '.join(FAMILIES)}")
        _, _, alpha_bar, beta2_bar = FAMILIES[family](recipe, torch.float64)
        delta_bar = None
        if "delta_end" in recipe:
            delta_bar = delta_increments(recipe["timesteps"], recipe["delta_end"]).cumsum(0).clip(0, 1).numpy()
        return cls(alpha_bar.numpy(), beta2_bar.sqrt().numpy(), float(recipe["sum_scale"]), dict(recipe), delta_bar)

    @classmethod
    def triangular(
        cls,
        timesteps: int = 1000,
        sum_scale: float = 1.0,
        alpha: str = "decreased",
        beta2: str = "increased",
    ) -> Schedule:
        """Make the deraining experiment's schedule: alpha_t ~ T - t, beta_t^2 ~ t + 1."""
        return cls.from_recipe(
            {
                "family": "triangular",
                "form": "triangular",
                "timesteps": timesteps,
                "alpha": {"shape": alpha},
                "beta2": {"shape": beta2},
                "sum_scale": sum_scale,
            }
        )

    @classmethod
    def power(
        cls,
        timesteps: int = 1000,
        sum_scale: float = 1.0,
        alpha: tuple[str, float] = ("decreased", 1.0),
        beta2: tuple[str, float] = ("increased", 1.0),
    ) -> Schedule:
        """Make the later experiments' schedule: P(1-x, a) for alpha, P(x, a) for beta^2, each (shape, ratio)."""
        return cls.from_recipe(
            {
                "family": "power",
                "form": "power",
                "timesteps": timesteps,
                "alpha": {"shape": alpha[0], "ratio": alpha[1]},
                "beta2": {"shape": beta2[0], "ratio": beta2[1]},
                "sum_scale": sum_scale,
            }
        )

    @classmethod
    def from_ddim(
        cls,
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        *,
        alpha: tuple[str, float] | None = None,
        boundary: str = "train",
    ) -> Schedule:
        """Convert a DDPM/DDIM schedule: alpha_bar = 1 - sqrt(a), beta_bar = sqrt(1 - a).

        `alpha=(shape, ratio)` re-adjusts alpha_bar alone to a power curve, as the paper does without retraining.
        `boundary` is the published first increment: "train" is 0, as in the constructor, "test" is a copy of the
        second, as in `init()`. The cumulative tables are the same for both.
        """
        if boundary not in ("train", "test"):
            raise ValueError(f"boundary is 'train' or 'test', not {boundary!r}")
        recipe: dict[str, Any] = {
            "family": "ddim",
            "timesteps": timesteps,
            "beta_schedule": beta_schedule,
            "boundary": boundary,
            "sum_scale": 1.0,
        }
        if alpha:
            recipe["alpha"] = {"shape": alpha[0], "ratio": alpha[1]}
        return cls.from_recipe(recipe)

    @classmethod
    def diffuir(cls, timesteps: int = 1000, delta_end: float = 1.5e-3, sum_scale: float = 0.01) -> Schedule:
        """Make DiffUIR's schedule (Zheng et al., CVPR 2024): DDPM's linear one, and delta up to `delta_end`."""
        recipe = {"family": "ddim", "timesteps": timesteps, "beta_schedule": "linear", "boundary": "train"}
        return cls.from_recipe({**recipe, "delta_end": delta_end, "sum_scale": sum_scale})

    @classmethod
    def resshift(
        cls, timesteps: int = 15, kappa: float = 2.0, power: float = 0.3, min_noise_level: float = 0.04
    ) -> Schedule:
        """Make ResShift's schedule (Yue et al., 2023): alpha_bar = eta_t, beta_bar = kappa sqrt(eta_t)."""
        return cls.from_recipe(
            {
                "family": "resshift",
                "timesteps": timesteps,
                "kappa": kappa,
                "power": power,
                "min_noise_level": min_noise_level,
                "sum_scale": kappa**2 * 0.99**2,
            }
        )

    @classmethod
    def ir_sde(cls, timesteps: int = 100, max_sigma: float = 10.0, eps: float = 0.005) -> Schedule:
        """Make IR-SDE's schedule (Luo et al., 2023) for a constant theta.

        alpha_bar = 1 - exp(-theta_bar), and the variance is lambda^2 (1 - exp(-2 theta_bar)).
        """
        sum_scale = (2 * max_sigma / 255) ** 2 * (1 - eps**2)
        return cls.from_recipe(
            {
                "family": "ir_sde",
                "timesteps": timesteps,
                "max_sigma": max_sigma,
                "eps": eps,
                "sum_scale": sum_scale,
            }
        )

    @classmethod
    def straight(cls, timesteps: int = 1000, sum_scale: float = 1.0) -> Schedule:
        """Make alpha_bar = t, beta_bar = t sqrt(sum_scale): rectified flow; Cold Diffusion's blend for sum_scale=0."""
        return cls.from_recipe({"family": "straight", "timesteps": timesteps, "sum_scale": sum_scale})

    @classmethod
    def from_tables(
        cls, alpha_bar: Any, beta_bar: Any, sum_scale: float | None = None, delta_bar: Any = None
    ) -> Schedule:
        """Make a schedule from its tables, for instance from a published checkpoint's buffers."""
        a, b = (np.asarray(x, dtype=np.float64).copy() for x in (alpha_bar, beta_bar))
        d = None if delta_bar is None else np.asarray(delta_bar, dtype=np.float64).copy()
        scale = float(b[-1] ** 2 if sum_scale is None else sum_scale)
        return cls(a, b, scale, {"family": "tables", "timesteps": len(a)}, d)

    def or_tables(self, alpha_bar: Any, beta_bar: Any, delta_bar: Any = None) -> Schedule:
        """Return this schedule if its tables are these to within 1e-3, as float32 buffers are, else one of these."""
        pairs = [(self.alpha_bar, alpha_bar), (self.beta_bar, beta_bar)]
        pairs += [] if self.delta_bar is None else [(self.delta_bar, delta_bar)]
        if all(np.allclose(table, own, rtol=0, atol=1e-3) for own, table in pairs):
            return self
        return Schedule.from_tables(alpha_bar, beta_bar, self.sum_scale, delta_bar)

    # -- what is read from it -----------------------------------------------------------------------------

    @property
    def timesteps(self) -> int:
        return len(self.alpha_bar)

    def alpha_bar_at(self, t: int) -> float:
        """Return alpha_bar_t; 0 at t = -1, the clean image."""
        return 0.0 if t < 0 else float(self.alpha_bar[t])

    def beta_bar_at(self, t: int) -> float:
        """Return beta_bar_t; 0 at t = -1, the clean image."""
        return 0.0 if t < 0 else float(self.beta_bar[t])

    def delta_bar_at(self, t: int) -> float:
        """Return delta_bar_t; 0 at t = -1, and where the schedule has none."""
        return 0.0 if t < 0 or self.delta_bar is None else float(self.delta_bar[t])

    @property
    def start_scale(self) -> float:
        """The factor on the degraded image that sampling starts from: 1 - delta_bar_T."""
        return 1.0 - self.delta_bar_at(self.timesteps - 1)

    def one_minus_alpha_bar_at(self, t: int) -> float:
        """Return 1 - alpha_bar_t, by which SM-N divides.

        At the last index it is the published 1e-6 for every schedule. Elsewhere it is at least 1e-6, although the
        published buffer may be exactly 0 there.
        """
        if t == self.timesteps - 1:
            return LAST_ONE_MINUS_ALPHA_BAR
        return max(1.0 - self.alpha_bar_at(t), LAST_ONE_MINUS_ALPHA_BAR)

    def buffers(self) -> dict[str, Tensor]:
        """Make the twelve buffers of the published class, float32, shape (T,), in its order, and DiffUIR's two.

        They are computed in the published code's precision: float64 for the triangular form, float32 for the others.
        Some are differences of nearly equal numbers, of which float32 keeps few digits; checkpoints hold those.
        """
        family = self.recipe.get("family")
        dtype = torch.float32 if family in ("power", "ddim") else torch.float64
        if family in FAMILIES:
            alphas, betas2, alphas_cumsum, betas2_cumsum = FAMILIES[family](self.recipe, dtype)
        else:
            alphas, betas2, alphas_cumsum, betas2_cumsum = from_curves(
                torch.from_numpy(self.alpha_bar), torch.from_numpy(self.beta_bar)
            )
        alphas_prev, betas2_prev = (torch.cat([x.new_ones(1), x[:-1]]) for x in (alphas_cumsum, betas2_cumsum))
        coef1 = betas2_prev / betas2_cumsum
        coef2 = (betas2 * alphas_prev - betas2_prev * alphas) / betas2_cumsum
        coef3 = betas2 / betas2_cumsum
        variance = betas2 * betas2_prev / betas2_cumsum
        coef1[0], coef2[0], coef3[0], variance[0] = 0, 0, 1, 0
        one_minus = 1 - alphas_cumsum
        one_minus[-1] = LAST_ONE_MINUS_ALPHA_BAR
        values = (
            alphas,
            alphas_cumsum,
            one_minus,
            betas2,
            betas2.sqrt(),
            betas2_cumsum,
            betas2_cumsum.sqrt(),
            coef1,
            coef2,
            coef3,
            variance,
            variance.clamp(min=1e-20).log(),
        )
        buffers = {name: value.float() for name, value in zip(BUFFER_NAMES, values, strict=True)}
        if self.delta_bar is not None:
            delta_bar = torch.from_numpy(self.delta_bar)
            delta = delta_bar.diff(prepend=delta_bar.new_zeros(1))
            buffers.update(zip(DELTA_NAMES, (delta.float(), delta_bar.float()), strict=True))
        return buffers
