"""DDRM: the published images, exact consistency, DDNM+, and what it makes of a perfect prior."""

from collections.abc import Callable

import pytest
import torch
from dense_operator import DenseOperator, block_mean, recorded_operator
from golden import Golden, golden_cases
from recorded_prior import DDPM, Asked, images_of, largest_difference, recorded_prior, white_prior
from torch import Tensor

from rddm_fast.inverse.ddnm import ddnm_plus
from rddm_fast.inverse.ddrm import ddrm, ddrm_start
from rddm_fast.inverse.restore import restore
from rddm_fast.inverse.solver_steps import solver_indices, solver_steps


def recorded_draws(golden: Golden, operator: DenseOperator, asked: Asked) -> Callable[[], Tensor]:
    """The recorded draws of the steps, in order.

    The published deblurring takes `unpaired` for the noise of the null space, where epsilon is due: a defect that needs
    the published basis. Adding q / eta times their difference to the draw makes the same image.
    """
    tensors, eta, noise = golden.tensors, golden.case["eta"], iter(golden.numbered("noise"))

    def draw() -> Tensor:
        z = next(noise)
        if "unpaired" not in tensors:
            return z
        wrong = tensors["unpaired"] - asked.answer
        return z + (1 - eta**2) ** 0.5 / eta * (wrong - operator.project(wrong))

    return draw


@pytest.mark.parametrize("golden", golden_cases("ddrm", "inverse"))
def test_every_image_is_the_published_one(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    operator, asked = recorded_operator(golden), Asked(recorded_prior(case, tensors))
    indices = case["indices"]
    assert solver_indices(1000, 1000 // (indices[0] - indices[1]), "ddrm") == indices
    steps = solver_steps(DDPM, indices)

    x_T = ddrm_start(tensors["y"], operator, steps[0], case["sigma_0"], tensors["start_noise"], official=True)
    numbers = {"sigma_y": case["sigma_0"], "eta": case["eta"], "eta_b": case["eta_b"], "official": True}
    draw = recorded_draws(golden, operator, asked)
    result = ddrm(asked, x_T, tensors["y"], operator, steps, draw=draw, **numbers)

    assert largest_difference([*asked.inputs, result], golden.numbered("x")) < 1e-4


def test_the_published_inequality_changes_the_last_image_alone() -> None:
    """At sigma_y = 0 the paper's last step puts y in; the published one returns x_0, which fits y less well."""
    image = (3, 8, 12)
    operator = DenseOperator(image, torch.kron(block_mean(8, 2), block_mean(12, 2)))
    y = operator.A(torch.rand(2, *image) * 2 - 1)
    walk = solver_steps(DDPM, solver_indices(1000, 5, "ddrm"))
    x_T = ddrm_start(y, operator, walk[0], 0.0, torch.randn(2, *image))
    noise = [torch.randn(2, *image) for _ in walk]
    paper, published = (
        images_of(ddrm, white_prior, x_T, y, operator, walk, sigma_y=0.0, draw=iter(noise).__next__, official=official)
        for official in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(paper[:-1], published[:-1], strict=True))
    assert (operator.A(paper[-1]) - y).abs().max() < 1e-6
    assert (operator.A(published[-1]) - y).abs().max() > 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.5])
def test_ddnm_plus_is_ddrm_with_eta_b_1(eta: float, sigma_y: float) -> None:
    """Step for step, in float64, with the same start, indices and draws; 40 different singular values, and 30 zeros."""
    image = (2, 5, 7)
    values = torch.linspace(0.05, 1.5, 40).double()
    left, right = (torch.linalg.qr(torch.randn(n, n).double())[0] for n in (50, 70))
    operator = DenseOperator(image, left[:, :40] * values @ right[:, :40].T, "image")
    y = operator.A(torch.randn(2, *image).double())
    walk = solver_steps(DDPM, solver_indices(1000, 20))
    x_T = torch.randn(2, *image).double()
    noise = [torch.randn(2, *image).double() for _ in walk]
    of_ddrm, of_ddnm_plus = (
        images_of(solver, white_prior, x_T, y, operator, walk, sigma_y=sigma_y, eta=eta, draw=iter(noise).__next__)
        for solver in (ddrm, ddnm_plus)
    )
    assert len(of_ddrm) == 20
    assert largest_difference(of_ddnm_plus, of_ddrm) < 1e-10


@pytest.mark.parametrize(
    ("sigma_y", "eta", "steps", "mean", "variance"),
    [
        (0.5, 0.85, 20, 0.250, 0.038),
        (0.5, 0.85, 100, 0.310, 0.029),
        (0.5, 1.0, 100, 0.005, None),  # y is forgotten
        (0.5, 0.0, 100, 0.395, 0.0),
        (0.1, 0.85, 20, 0.448, 0.015),
        (0.1, 0.85, 100, 0.478, 0.004),
    ],
)
@pytest.mark.parametrize("method", ["ddrm", "ddnm+"])
def test_with_a_perfect_prior(
    method: str, sigma_y: float, eta: float, steps: int, mean: float, variance: float | None
) -> None:
    """One coefficient, prior N(0, 0.25), y = 0.5, s = 1, on 20,000 pixels: the numbers of the reference, section 2."""
    operator = DenseOperator((1, 1, 1), torch.ones(1, 1))
    y = torch.full((20_000, 1), 0.5)
    x = restore(y, operator, white_prior, method, sigma_y, steps, eta=eta, indices="ddrm")
    assert abs(float(x.mean()) - mean) < 0.006
    if variance is not None:
        assert abs(float(x.var()) - variance) < 0.002


class Counting(DenseOperator):
    """Counts its transforms."""

    from_image = to_image = 0

    def Vt(self, x: Tensor) -> Tensor:
        self.from_image += 1
        return super().Vt(x)

    def V(self, z: Tensor) -> Tensor:
        self.to_image += 1
        return super().V(z)


@pytest.mark.parametrize(("method", "from_image", "to_image"), [("ddrm", 2, 1), ("ddnm+", 1, 0)])
def test_two_transforms_a_step_besides_that_of_the_draw(method: str, from_image: int, to_image: int) -> None:
    """The state stays in spectral coordinates: V^T of epsilon, V of the image, and V^T of the draw. The start takes
    V^T of x_T, and DDRM's V^T of the draw and V of x_T."""
    operator = Counting((1, 6, 4), torch.kron(block_mean(6, 2), block_mean(4, 2)))
    restore(torch.zeros(1, 6), operator, white_prior, method, 0.1, 10)
    assert (operator.from_image, operator.to_image) == (20 + from_image, 10 + to_image)
