"""The numbers of a reverse step in the order in which kernels read them, and tables of all steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FIELDS = (
    *("alpha_bar", "alpha_bar_minus_1", "beta_bar", "inv_beta_bar", "inv_one_minus_alpha_bar"),
    *("k_t", "k_res", "k_noise", "k_0", "k_in", "sigma", "offset", "clip_res", "clip_0"),
)
"""The order of a row, which StepCoefficients (csrc/reverse_step/reverse_step.h) and kernels/reverse_step.py share."""


def inverse(x: float) -> float:
    """Return 1 / x as IEEE arithmetic defines it; Python would raise for 0."""
    return 1.0 / x if x else float("inf")


def step_numbers(
    alpha_bar: float,
    beta_bar: float,
    one_minus_alpha_bar: float,
    k_t: float,
    k_res: float,
    k_noise: float,
    k_0: float,
    k_in: float,
    sigma: float,
    offset: float,
    clip_res: float,
    clip_0: float,
) -> list[float]:
    """Return the numbers of a step in the order of FIELDS; the arguments are those of `reverse_step`."""
    read_out = [alpha_bar, alpha_bar - 1.0, beta_bar, inverse(beta_bar), inverse(one_minus_alpha_bar)]
    return [*read_out, k_t, k_res, k_noise, k_0, k_in, sigma, offset, clip_res, clip_0]


@dataclass(frozen=True, eq=False)
class StepTable:
    """The numbers of all steps of a sampler, on its images' device.

    Attributes:
        rows: (S, 14) float32, one row per step in the order of FIELDS.
        stochastic: which steps add noise.
        adds_input: whether a step adds the degraded image (k_in).
    """

    rows: Tensor
    stochastic: tuple[bool, ...]
    adds_input: bool = False

    @classmethod
    def of(
        cls,
        steps: Iterable[Mapping[str, float]],
        *,
        clip_res: float = 1.0,
        clip_0: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> StepTable:
        """Make the table of `steps`.

        Args:
            steps: one mapping per step, of `reverse_step`'s arguments from alpha_bar to offset; the same are optional.
            clip_res, clip_0: the clamps of all steps.
            device: the table's device.

        Raises:
            ValueError: there is no step.
        """
        defaults = {"k_in": 0.0, "sigma": 0.0, "offset": 0.0, "clip_res": clip_res, "clip_0": clip_0}
        found = [step_numbers(**{"one_minus_alpha_bar": 1.0 - step["alpha_bar"], **defaults, **step}) for step in steps]
        if not found:
            raise ValueError("there are no steps: a table has at least one")
        rows = torch.tensor(found, dtype=torch.float64).float()
        sigma, k_in = FIELDS.index("sigma"), FIELDS.index("k_in")
        return cls(rows.to(device), tuple(row[sigma] != 0 for row in found), any(row[k_in] != 0 for row in found))
