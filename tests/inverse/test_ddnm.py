"""DDNM: the published images of all three variants, and the noise that eq. 19 keeps account of."""

import math
from collections.abc import Callable

import pytest
import torch
from dense_operator import DenseOperator, Simplified, recorded_operator
from golden import Golden, golden_cases
from recorded_prior import DDPM, Asked, largest_difference, recorded_prior
from torch import Tensor

from rddm_fast.inverse.ddnm import ddnm, ddnm_plus, ddnm_steps, eq_19
from rddm_fast.inverse.operator import Operator
from rddm_fast.inverse.solver_steps import SolverStep, solver_indices, solver_steps
from rddm_fast.inverse.travel import up_from_x_0, visited


def recorded_walk(case: dict) -> list[SolverStep]:
    indices = solver_indices(1000, case["steps"], "ddnm")
    walk = solver_steps(DDPM, visited(indices, case["travel_length"], case["travel_repeat"]))
    assert [[step.t, step.s] for step in walk] == case["pairs"]
    return walk


def recorded_draws(golden: Golden, operator: Operator, asked: Asked) -> Callable[[], Tensor]:
    """The recorded draws of the steps, in order.

    The published DDNM+ adds epsilon in the wrong basis, recorded as `eps_mapped`, to the null space. Adding q / eta
    times the difference to the draw makes the same image.
    """
    case, noise, mapped = golden.case, iter(golden.numbered("noise")), golden.numbered("eps_mapped")

    def draw() -> Tensor:
        z = next(noise)
        if not case["published_noise"]:
            return z
        wrong = mapped[len(asked.inputs) - 1] - asked.answer
        return z + (1 - case["eta"] ** 2) ** 0.5 / case["eta"] * (wrong - operator.project(wrong))

    return draw


@pytest.mark.parametrize("golden", golden_cases("ddnm", "inverse"))
def test_every_image_is_the_published_one(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    asked, walk, y, x_T = Asked(recorded_prior(case, tensors)), recorded_walk(case), tensors["y"], tensors["x_0"]
    if case["variant"] == "svd_plus":
        spectral = recorded_operator(golden)
        draw = recorded_draws(golden, spectral, asked)
        numbers = {"sigma_y": case["sigma_y"], "eta": case["eta"], "back_up": up_from_x_0}
        result = ddnm_plus(asked, x_T, y, spectral, walk, draw=draw, **numbers)
    else:
        simplified = case["variant"] == "simplified"
        operator = Simplified(case, tensors) if simplified else recorded_operator(golden)
        steps = ddnm_steps(walk, case["eta"], case["sigma_y"], official=simplified)
        draw = recorded_draws(golden, operator, asked)
        result = ddnm(asked, x_T, y, operator, steps, draw=draw, back_up=up_from_x_0)

    assert largest_difference([*asked.inputs, result], golden.numbered("x")) < 1e-4


@pytest.mark.parametrize("sigma_y", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_eq_19_keeps_the_noise_of_every_step(sigma_y: float, eta: float) -> None:
    """The noise that y brings in, the predicted and the new noise together have the variance 1 - a_s."""
    walk = solver_steps(DDPM, visited(solver_indices(1000, 20), 3, 2))
    for step in ddnm_steps(walk, eta, sigma_y):
        if step.up:
            continue
        brought = step.root_a_s * step.lam * sigma_y
        assert brought**2 + step.k_noise**2 + step.sigma**2 == pytest.approx(1 - step.a_s, abs=1e-12)
        assert math.isclose(step.sigma * math.sqrt(1 - eta**2), step.k_noise * eta, abs_tol=1e-12)
    assert step.s == -1
    assert step.lam == (1.0 if sigma_y == 0 else 0.0)  # the last step fits y only if y has no noise


def test_without_noise_eq_19_is_algorithm_1() -> None:
    for step in ddnm_steps(solver_steps(DDPM, solver_indices(1000, 7)), 0.85, 0.0):
        assert step.lam == 1.0
        assert step.sigma == pytest.approx(0.85 * step.sigma_s, rel=1e-12)
        assert step.k_noise == pytest.approx(math.sqrt(1 - 0.85**2) * step.sigma_s, rel=1e-12)


def test_eq_19_itself() -> None:
    assert eq_19(0.5, 0.6, 0.5) == (1.0, pytest.approx(0.25 - 0.09))
    assert eq_19(0.2, 0.8, 0.5) == (pytest.approx(0.5), 0.0)
    assert eq_19(0.0, 1.0, 0.0) == (1.0, 0.0)


@pytest.mark.parametrize(("s", "share"), [(300, 0.92), (100, 0.45), (50, 0.24)])
def test_the_simplified_code_has_too_little_noise(s: int, share: float) -> None:
    """The published shares of the noise at three indices, without noise in y (reference, section 3)."""
    (step,) = ddnm_steps(solver_steps(DDPM, [s + 10, s]), 0.85, 0.0, official=True)
    assert math.hypot(step.k_noise, step.sigma) / step.sigma_s == pytest.approx(share, abs=0.005)


def test_eq_51_without_noise_still_fits_y() -> None:
    """At sigma_y = 0 every measured coefficient is the cleaner one, in the last step too."""
    image = (1, 4, 6)
    operator = DenseOperator(image, torch.randn(9, 24), "image")
    y = operator.A(torch.randn(3, *image))
    walk = solver_steps(DDPM, solver_indices(1000, 10))
    x = ddnm_plus(
        lambda x, t: 0.5 * x,
        torch.randn(3, *image),
        y,
        operator,
        walk,
        sigma_y=0.0,
        draw=lambda: torch.randn(3, *image),
    )
    assert (operator.A(x) - y).abs().max() < 1e-5
