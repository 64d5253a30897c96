"""DDRM (Kawar et al., NeurIPS 2022): every spectral coefficient of the image follows y as far as y is cleaner than it.

A coefficient of x_0 is known from y with noise of deviation sigma_y / s, where s is its singular value. It is compared
with Sigma, the noise of the level arrived at:

    s = 0               unobserved    x_0 + q Sigma epsilon + eta Sigma z                        q = sqrt(1 - eta^2)
    Sigma < sigma_y/s   y noisier     x_0 + q Sigma (y - x_0) s / sigma_y + eta Sigma z
    Sigma >= sigma_y/s  y cleaner     (1 - eta_b) x_0 + eta_b y + sqrt(Sigma^2 - eta_b^2 sigma_y^2 / s^2) z
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..ops.inverse.spectral_step import spectral_step_
from .operator import SpectralOperator
from .solver_steps import Draw, OnStep, Predict, SolverStep
from .spectral import image_of, measured
from .step_noise import step_noise


def ddrm_start(
    y: Tensor, operator: SpectralOperator, first: SolverStep, sigma_y: float, z: Tensor, official: bool = False
) -> Tensor:
    """Return x_T, the image that DDRM starts from: y where it is cleaner than Sigma_T, with noise up to Sigma_T.

    Args:
        y: the measurement, (B, *operator.measured).
        operator: A.
        first: the first step; its `t` is T.
        sigma_y: the noise of y, a deviation in the scale of images in [-1, 1].
        z: a standard normal draw, (B, C, H, W).
        official: divide by Sigma_T, as the published code does, where sqrt(1 + Sigma_T^2) is due. At index 950 the
            difference is 5e-5 of the image.
    """
    s, inverse, y_bar = measured(operator, y)
    not_cleaner = s * first.Sigma_t <= sigma_y
    mean = y_bar.masked_fill(not_cleaner, 0.0)
    variance = first.Sigma_t**2 - ((sigma_y * inverse) ** 2).masked_fill(not_cleaner, 0.0)
    x_bar = mean + variance.sqrt() * operator.Vt(z)
    return operator.V(x_bar / first.Sigma_t if official else first.root_a_t * x_bar)


@torch.no_grad()
def ddrm(
    predict: Predict,
    x_T: Tensor,
    y: Tensor,
    operator: SpectralOperator,
    steps: Iterable[SolverStep],
    *,
    sigma_y: float,
    draw: Draw | int,
    eta: float = 0.85,
    eta_b: float = 1.0,
    official: bool = False,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk `steps` from x_T to the restored image.

    The state stays in spectral coordinates. A step transforms epsilon to them, and a given draw, and the image back.
    Between the transforms it is one op, `spectral_step_`.

    Args:
        predict: the prior.
        x_T: the first image, (B, C, H, W), from `ddrm_start`.
        y: the measurement, (B, *operator.measured).
        operator: A.
        steps: steps downwards only (`solver_steps`).
        sigma_y: the noise of y, a deviation in the scale of images in [-1, 1].
        draw: gives one draw a step, an image, or is a seed: then a step draws spectral coordinates in its op, with
            stream i + 1. The last draw has no effect, but the published code draws it.
        eta: the share of new noise where y is noisier or says nothing, 0 to 1. At 1 a noisier y is ignored.
        eta_b: the weight of y where y is cleaner, 0 to 1.
        official: the published strict inequality: a coefficient where Sigma = sigma_y / s counts as unobserved. With
            sigma_y = 0 that is every coefficient of the last step, so the result is x_0 and does not fit y exactly.
        on_step: called after every step.

    Returns:
        The image, (B, C, H, W) in [-1, 1], not clamped.
    """
    s, _, y_bar = measured(operator, y)
    numbers: dict[str, Any] = {"sigma_y": sigma_y, "eta": eta, "eta_b": eta_b, "strict": official}
    x_t, x = x_T, operator.Vt(x_T).clone(memory_format=torch.contiguous_format)
    for i, step in enumerate(steps):
        # Ask the network.
        epsilon = operator.Vt(predict(x_t, step.t))

        # Each coefficient goes its own way from t to s.
        z = step_noise(draw, i, operator.Vt)
        spectral_step_(x, epsilon, y_bar, s, a_t=step.a_t, a_s=step.a_s, **numbers, **z)

        # Back to an image.
        x_t = image_of(operator, x)

        # Show the image.
        if on_step is not None:
            on_step(i, step, x_t)
    return x_t
