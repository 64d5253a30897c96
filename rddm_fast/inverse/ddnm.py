"""DDNM (Wang et al., ICLR 2023): correct each x_0 in the range space of A, and let the prior fill the null space.

    x_hat = x_0 - Lambda A+ (A x_0 - y)        x_s = sqrt(a_s) x_hat + noise

`ddnm` takes one number Lambda = lam for all of the image, so it needs A and A+ only: Algorithm 1 (lam = 1, for a y
without noise), eq. 19 (lam from sigma_y), and the published simplified code. `ddnm_plus` is DDNM+ with a number for
each singular value, eq. 51.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.inverse.spectral_step import spectral_step_
from .operator import Operator, SpectralOperator
from .solver_steps import Draw, OnStep, Predict, SolverStep
from .spectral import image_of, measured
from .step_noise import drawn_noise, step_noise
from .travel import BackUp, up_from_x_t


@dataclass(frozen=True)
class DDNMStep(SolverStep):
    """A step of `ddnm`. In a step back up the three numbers are 0 and not used.

    Attributes:
        lam: how far x_0 is moved to fit y, 0 to 1.
        k_noise: the coefficient of the predicted noise epsilon.
        sigma: the deviation of the new noise z.
    """

    lam: float
    k_noise: float
    sigma: float


def eq_19(sigma_t: float, c: float, sigma_y: float) -> tuple[float, float]:
    """Return lambda and gamma of DDNM's eq. 19, so that (c lambda sigma_y)^2 + gamma = sigma_t^2.

    The correction brings the noise of y into the image, with deviation c lambda sigma_y if that of A+ n is sigma_y.
    Noise of variance gamma completes it to sigma_t^2. If y alone has more, lambda shrinks and gamma is 0.

    Args:
        sigma_t: the deviation that the step's noise has in all.
        c: the coefficient of x_hat in the step.
        sigma_y: the noise of y.
    """
    if sigma_t >= c * sigma_y:
        return 1.0, sigma_t**2 - (c * sigma_y) ** 2
    return sigma_t / (c * sigma_y), 0.0


def ddnm_steps(
    steps: Sequence[SolverStep], eta: float = 0.85, sigma_y: float = 0.0, *, official: bool = False
) -> list[DDNMStep]:
    """Give each step its numbers for `ddnm`, with sigma = sqrt(1 - a_s) and q = sqrt(1 - eta^2).

    Default: eq. 19 with sigma_t = sigma and c = sqrt(a_s), those of the DDIM step that the published code takes; the
    paper states it for DDPM's posterior. The noise is sqrt(gamma) (eta z + q epsilon). At sigma_y = 0 this is
    Algorithm 1: lam = 1 and the noise eta sigma z + q sigma epsilon.

    Official: the published simplified code. It takes sqrt(1 - a_s^2) for sigma_t and a_s for c, and scales the noise
    twice: sqrt(gamma) sigma (eta z + q epsilon). Even at sigma_y = 0 the images have too little noise: 0.92 of it at
    index 300, 0.24 at 50.

    Args:
        steps: from `solver_steps`.
        eta: the share of new noise, 0 to 1.
        sigma_y: the noise of y, a deviation in the scale of images in [-1, 1].
        official: the published simplified code instead of eq. 19.
    """
    q = (1.0 - eta**2) ** 0.5

    def numbers(step: SolverStep) -> tuple[float, float, float]:
        if step.up:
            return 0.0, 0.0, 0.0
        if official:
            lam, gamma = eq_19((1.0 - step.a_s**2) ** 0.5, step.a_s, sigma_y)
            noise = gamma**0.5 * step.sigma_s
        else:
            lam, gamma = eq_19(step.sigma_s, step.root_a_s, sigma_y)
            noise = gamma**0.5
        return lam, q * noise, eta * noise

    return [DDNMStep(step.t, step.s, step.a_t, step.a_s, *numbers(step)) for step in steps]


def ddnm(
    predict: Predict,
    x_T: Tensor,
    y: Tensor,
    operator: Operator,
    steps: Iterable[DDNMStep],
    *,
    draw: Draw,
    back_up: BackUp = up_from_x_t,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk `steps` from pure noise to the restored image (DDNM, Alg. 1 and Alg. 2 with eq. 19).

    Args:
        predict: the prior.
        x_T: a standard normal draw, (B, C, H, W).
        y: the measurement, (B, *operator.measured).
        operator: A and its pseudo-inverse A+.
        steps: from `ddnm_steps`.
        draw: gives one draw a step. The last one has no effect, but the published code draws it.
        back_up: how a step of the time travel goes up.
        on_step: called after every step.

    Returns:
        The image, (B, C, H, W) in [-1, 1], not clamped. If the last lam is 1, A x = y to rounding.
    """
    x_t = x_0 = x_T
    for i, step in enumerate(steps):
        if step.up:
            # Travel back to a noisier image.
            x_t = back_up(step, x_t, x_0, draw())
        else:
            # Ask the network.
            epsilon = predict(x_t, step.t)

            # The clean image that its noise implies.
            x_0 = (x_t - step.sigma_t * epsilon) / step.root_a_t

            # Correct it in the range space.
            x_hat = x_0 - step.lam * operator.pinv(operator.A(x_0) - y)

            # Step from t to s.
            x_t = step.root_a_s * x_hat + step.k_noise * epsilon + step.sigma * draw()

        # Show the image.
        if on_step is not None:
            on_step(i, step, x_t)
    return x_t


@torch.no_grad()
def ddnm_plus(
    predict: Predict,
    x_T: Tensor,
    y: Tensor,
    operator: SpectralOperator,
    steps: Iterable[SolverStep],
    *,
    sigma_y: float,
    draw: Draw | int,
    eta: float = 0.85,
    back_up: BackUp = up_from_x_t,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk `steps` from pure noise to the restored image with DDNM+ (eq. 51, the DDIM form).

    Per singular value s, with b = a_s, sigma = sqrt(1 - b), c = sqrt(b) sigma_y and q = sqrt(1 - eta^2):

        s = 0             lambda = 0                   noise eta sigma z + q sigma epsilon
        s sigma < c       lambda = q s sigma / c       noise eta sigma z
        s sigma >= c      lambda = 1                   noise sqrt(sigma^2 - c^2 / s^2) z

    This is DDRM's step with eta_b = 1. epsilon enters in the basis of V; the published code adds it in the wrong one.
    The state stays in spectral coordinates. A step transforms epsilon to them, and a given draw, and the image back.
    Between the transforms it is one op, `spectral_step_`.

    Args:
        predict: the prior.
        x_T: a standard normal draw, (B, C, H, W).
        y: the measurement, (B, *operator.measured).
        operator: A.
        steps: from `solver_steps`.
        sigma_y: the noise of y, a deviation in the scale of images in [-1, 1].
        draw: gives one draw a step, an image, or is a seed: then a step draws spectral coordinates in its op, with
            stream i + 1. The last draw has no effect, but the published code draws it.
        eta: the share of new noise, 0 to 1.
        back_up: how a step of the time travel goes up.
        on_step: called after every step.

    Returns:
        The image, (B, C, H, W) in [-1, 1], not clamped. With sigma_y > 0 it is the last x_0.
    """
    s, _, y_bar = measured(operator, y)
    x_t, x = x_T, operator.Vt(x_T).clone(memory_format=torch.contiguous_format)
    clean = None if back_up is up_from_x_t else x.clone()  # up_from_x_t does not look at x_0
    numbers: dict[str, Any] = {"sigma_y": sigma_y, "eta": eta, "clean": clean}
    for i, step in enumerate(steps):
        if step.up:
            # Travel back to a noisier image.
            x = back_up(step, x, x if clean is None else clean, drawn_noise(draw, i, x, operator.Vt))
        else:
            # Ask the network.
            epsilon = operator.Vt(predict(x_t, step.t))

            # Correct x_0 as far as y is to be trusted, and step from t to s.
            z = step_noise(draw, i, operator.Vt)
            spectral_step_(x, epsilon, y_bar, s, a_t=step.a_t, a_s=step.a_s, **numbers, **z)

        # Back to an image.
        x_t = image_of(operator, x)

        # Show the image.
        if on_step is not None:
            on_step(i, step, x_t)
    return x_t
