"""What a reverse step multiplies by: csrc/reverse_step.h's StepCoefficients, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FIELDS = (
    *("alpha_bar", "alpha_bar_minus_1", "beta_bar", "inv_beta_bar", "inv_one_minus_alpha_bar"),
    *("k_t", "k_res", "k_noise", "k_0", "sigma", "offset", "clip_res", "clip_0"),
)


def inverse(x: float) -> float:
    """1 / x as IEEE arithmetic has it, where Python would raise."""
    return 1.0 / x if x else float("inf")


def coefficients(
    alpha_bar: float,
    beta_bar: float,
    one_minus_alpha_bar: float,
    k_t: float,
    k_res: float,
    k_noise: float,
    k_0: float,
    sigma: float,
    offset: float,
    clip_res: float,
    clip_0: float,
) -> dict[str, float]:
    """The numbers a kernel takes, by the names of FIELDS; the arguments are `reverse_step`'s."""
    inverses = {"inv_beta_bar": inverse(beta_bar), "inv_one_minus_alpha_bar": inverse(one_minus_alpha_bar)}
    sums = {"k_t": k_t, "k_res": k_res, "k_noise": k_noise, "k_0": k_0, "sigma": sigma, "offset": offset}
    read_out = {"alpha_bar": alpha_bar, "alpha_bar_minus_1": alpha_bar - 1.0, "beta_bar": beta_bar}
    return read_out | inverses | sums | {"clip_res": clip_res, "clip_0": clip_0}


@dataclass(frozen=True, eq=False)
class StepTable:
    """The coefficients of all steps of a sampler, where its images are.

    rows: (S, 13) float32, a row a step in the order of FIELDS.
    stochastic: which steps add noise.
    """

    rows: Tensor
    stochastic: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        steps: Iterable[Mapping[str, float]],
        *,
        clip_res: float = 1.0,
        clip_0: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> StepTable:
        """Of steps as mappings of `reverse_step`'s numbers, from alpha_bar to offset, with the same ones left out.

        Every step has the same clamps. Raises ValueError without any step.
        """
        defaults = {"sigma": 0.0, "offset": 0.0, "clip_res": clip_res, "clip_0": clip_0}
        found = [coefficients(**{"one_minus_alpha_bar": 1.0 - step["alpha_bar"], **defaults, **step}) for step in steps]
        if not found:
            raise ValueError("there are no steps: a table has at least one")
        rows = torch.tensor([[row[name] for name in FIELDS] for row in found], dtype=torch.float64).float()
        return cls(rows.to(device), tuple(row["sigma"] != 0 for row in found))
