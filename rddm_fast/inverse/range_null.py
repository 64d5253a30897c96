"""The walk of DDRM, DDNM and DDNM+ in pixels, one pass over memory a step, for operators of one singular value.

Where every non-zero singular value is the same s, a spectral step treats all of the range space alike, and all of the
null space. With the projector P = A+ A no spectral coordinates are needed:

    x_s = P (r_0 x_0 + r_e epsilon + r_z z) + (I - P)(n_0 x_0 + n_e epsilon + n_z z) + k_y A+ y

That is `ops.range_null_step`. `range_null_steps` gives each step its seven numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.inverse.range_null_step import range_null_step
from .ddnm import ddnm_steps
from .operator import RankOneBlocks
from .solver_steps import Draw, OnStep, Predict, SolverStep
from .step_noise import drawn_noise, step_noise
from .travel import up_from_x_t

Numbers = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class RangeNullStep(SolverStep):
    """A step of `range_null_walk`. In a step back up the seven numbers are 0 and not used.

    Attributes:
        n_0, n_e, n_z: the coefficients of x_0, epsilon and the new noise z in the null space.
        r_0, r_e, r_z: the same in the range space.
        k_y: the coefficient of A+ y.
    """

    n_0: float
    n_e: float
    n_z: float
    r_0: float
    r_e: float
    r_z: float
    k_y: float

    @property
    def numbers(self) -> dict[str, Any]:
        """The keyword arguments of `ops.range_null_step`."""
        names = ("root_a_t", "sigma_t", "n_0", "n_e", "n_z", "r_0", "r_e", "r_z", "k_y")
        return {name: getattr(self, name) for name in names}


def range_null_steps(
    method: str,
    steps: Sequence[SolverStep],
    s: float | None,
    *,
    sigma_y: float,
    eta: float,
    eta_b: float = 1.0,
    official: bool = False,
) -> list[RangeNullStep]:
    """Give each step its numbers.

    Args:
        method: "ddrm"; "ddnm+", eq. 51; or "ddnm", Algorithm 1 and eq. 19, or with `official` the simplified code.
        steps: from `solver_steps`.
        s: the operator's singular value; None for "ddnm", which does not use it.
        sigma_y: the noise of y, a deviation in the scale of images in [-1, 1].
        eta, eta_b: as for `ddrm`; DDNM takes no eta_b.
        official: DDRM's strict inequality, DDNM's simplified code.
    """
    if method == "ddnm":
        return [
            _with(step, (0.0,) * 7 if step.up else _of_ddnm(step.root_a_s, step.lam, step.k_noise, step.sigma))
            for step in ddnm_steps(steps, eta, sigma_y, official=official)
        ]
    assert s is not None
    strict = official and method == "ddrm"
    eta_b = eta_b if method == "ddrm" else 1.0
    return [_with(step, (0.0,) * 7 if step.up else _spectral(step, s, sigma_y, eta, eta_b, strict)) for step in steps]


def _with(step: SolverStep, numbers: Numbers) -> RangeNullStep:
    return RangeNullStep(step.t, step.s, step.a_t, step.a_s, *numbers)


def _of_ddnm(root_a_s: float, lam: float, k_noise: float, sigma: float) -> Numbers:
    return root_a_s, k_noise, sigma, root_a_s * (1.0 - lam), k_noise, sigma, root_a_s * lam


def _spectral(step: SolverStep, s: float, sigma_y: float, eta: float, eta_b: float, strict: bool) -> Numbers:
    """The cases of DDRM and of DDNM+'s eq. 51 for one singular value (see `ddrm` and `ddnm_plus`)."""
    root, sigma, q = step.root_a_s, step.sigma_s, (1.0 - eta**2) ** 0.5
    null = (root, q * sigma, eta * sigma)
    c = root * sigma_y
    if s * sigma > c or (s * sigma == c and not strict):  # y is cleaner than x_s
        noise = max(sigma**2 - (eta_b * c / s) ** 2, 0.0) ** 0.5
        return (*null, root * (1.0 - eta_b), 0.0, noise, root * eta_b)
    if s * sigma == c:  # the published inequalities are both strict: as if unobserved
        return (*null, *null, 0.0)
    lam = s * sigma * q / c
    return (*null, root * (1.0 - lam), 0.0, eta * sigma, root * lam)


@torch.no_grad()
def range_null_walk(
    predict: Predict,
    x_T: Tensor,
    pinv_y: Tensor,
    blocks: RankOneBlocks,
    steps: Iterable[RangeNullStep],
    *,
    draw: Draw | int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk `steps` from x_T to the restored image.

    Args:
        predict: the prior.
        x_T: the first image, (B, C, H, W): a standard normal draw, or DDRM's `ddrm_start`.
        pinv_y: A+ y, (B, C, H, W).
        blocks: A+ A.
        steps: from `range_null_steps`.
        draw: gives one draw a step, an image, or is a seed: then the op draws, step i with stream i + 1.
        on_step: called after every step.

    Returns:
        The image, (B, C, H, W) in [-1, 1], not clamped.
    """
    x_t = x_T
    place: dict[str, Any] = {"factor": blocks.factor, "weights": blocks.weights, "mask": blocks.mask}
    for i, step in enumerate(steps):
        if step.up:
            # Travel back to a noisier image.
            x_t = up_from_x_t(step, x_t, x_t, drawn_noise(draw, i, x_t))
        else:
            # Ask the network.
            epsilon = predict(x_t, step.t)

            # Correct the range space by y, and step from t to s.
            x_t = range_null_step(x_t, epsilon, pinv_y, **step.numbers, **place, **step_noise(draw, i))

        # Show the image.
        if on_step is not None:
            on_step(i, step, x_t)
    return x_t
