"""The operators that are made of others or of a user's own: functions, compositions, and those of deepinv."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_values import Image, far, kernel, matrix, noise
from torch import Tensor

from rddm_fast.inverse.operator import Operator, SpectralOperator
from rddm_fast.inverse.operators import (
    Colourisation,
    Composition,
    FourierBlur,
    Function,
    Inpainting,
    OldPhotograph,
    SeparableBlur,
    SuperResolution,
    check,
    from_deepinv,
    random_mask,
)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_composition_keeps_its_laws(seed: int) -> None:
    draw = random.Random(seed)
    image: Image = (draw.choice((1, 2, 3, 4)), 4 * draw.choice((1, 2, 3)), 4 * draw.choice((2, 4)))
    operators: list[Operator] = []
    for _ in range(draw.choice((2, 3))):
        kinds: list[Callable[[Image], Operator]] = [
            lambda i: Inpainting(i, random_mask(i, 0.4, seed)),
            Colourisation,
            lambda i: FourierBlur(i, kernel(3, 3)),
            lambda i: SeparableBlur(i, [0.1, 0.8, 0.1]),
            lambda i: Function(i, lambda x: x + 0.2 * x.roll(1, -1), dtype=torch.float64),
        ]
        if image[1] % 2 == 0 and image[2] % 2 == 0:
            kinds.append(lambda i: SuperResolution(i, 2))
        operators.insert(0, draw.choice(kinds)(image))
        image = operators[0].measured  # type: ignore[assignment]
    composition = Composition(*operators)

    for dtype in (torch.float32, torch.float64):
        for batch in (1, 3):
            assert check(composition, dtype, batch=batch) == [], [type(op).__name__ for op in operators]


def test_an_old_photograph_is_its_parts_with_an_exact_pseudo_inverse() -> None:
    image, mask = (3, 8, 6), random_mask((3, 8, 6), 0.5, seed=2)
    mask[:2, :2] = False  # a block of which nothing is left
    op = OldPhotograph(image, 2, mask)
    parts = Composition(Colourisation((3, 4, 3), [1 / 3] * 3), SuperResolution(image, 2), Inpainting(image, mask))
    x, y = noise(2, *image), noise(2, *op.measured)

    assert far(op.A(x), parts.A(x)) <= 1e-14
    assert not parts.exact  # so the right side is conjugate gradients
    assert far(op.pinv(y), parts.pinv(y)) <= 1e-10
    share = torch.nn.functional.avg_pool2d(mask.double()[None, None], 2)
    published = mask * y.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(-1, 3, -1, -1)
    assert far(op.A(published), y * share) <= 1e-14  # the published inverse gives the share of kept pixels of y
    assert far(op.A(op.pinv(y)), torch.where(share > 0, y, 0.0)) <= 1e-14


def test_a_function_has_its_adjoint_and_pseudo_inverse_in_inference_mode() -> None:
    op = Function((2, 5, 4), lambda x: x[..., 1:] - x[..., :-1], dtype=torch.float64)
    A = matrix(op)
    with torch.inference_mode():
        y = noise(2, *op.measured)
        assert far(op.At(y).flatten(1), y.flatten(1) @ A) <= 1e-12
        assert far(op.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(A).T) <= 1e-10


def test_a_function_with_its_own_adjoint_needs_no_gradient() -> None:
    M = noise(5, 12, seed=1)

    def by_numpy(x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().reshape(len(x), 12) @ M.T.numpy())

    def adjoint(y: Tensor) -> Tensor:
        return (y @ M).view(-1, 1, 3, 4)

    with pytest.raises(ValueError, match="the function has no gradient: write it in torch operations, or pass its adj"):
        Function((1, 3, 4), by_numpy, dtype=torch.float64)
    assert check(Function((1, 3, 4), by_numpy, adjoint=adjoint, dtype=torch.float64)) == []


def test_an_image_is_solved_as_it_is_alone() -> None:
    op = Function((1, 4, 4), lambda x: x + 0.5 * x.roll(1, -1), dtype=torch.float64)
    y = noise(3, 1, 4, 4) * torch.tensor([1.0, 1e-6, 0.0], dtype=torch.float64).view(3, 1, 1, 1)
    together = op.pinv(y)
    for i in range(3):
        assert torch.equal(together[i], op.pinv(y[i : i + 1])[0])
    assert not together[2].any()


def test_conjugate_gradients_say_when_they_stop_early() -> None:
    op = Function((1, 1, 64), lambda x: x.cumsum(-1), max_iterations=3)
    with pytest.warns(
        RuntimeWarning, match="reached a residual of .* in 3 iterations, not 1e-06: raise max_iterations"
    ):
        op.pinv(noise(1, 1, 1, 64, dtype=torch.float32))


def test_conjugate_gradients_without_a_tolerance_never_look_at_the_residual() -> None:
    calls = []

    def A(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    op = Function((1, 2, 3), A, adjoint=lambda y: 2 * y, tolerance=0.0, max_iterations=7)
    calls.clear()
    y = noise(2, 1, 2, 3, dtype=torch.float32)
    assert far(op.pinv(y), y / 2) <= 1e-6
    assert len(calls) == 7  # solved after one, but it does not know


@pytest.mark.parametrize(
    ("parts", "exact"),
    [
        (lambda i: (Colourisation((3, 2, 4)), SuperResolution(i, 2)), True),
        (lambda i: (FourierBlur(i, kernel(3, 3)), FourierBlur(i, kernel(2, 2))), True),
        (lambda i: (SuperResolution(i, 2), Inpainting(i, torch.ones(4, 8))), True),
        (lambda i: (SuperResolution(i, 2), Inpainting(i, random_mask(i))), False),
        (lambda i: (SuperResolution(i, 2), FourierBlur(i, kernel(3, 3))), False),
    ],
)
def test_a_composition_knows_whether_the_product_of_pseudo_inverses_is_one(
    parts: Callable[[Image], tuple[Operator, ...]], exact: bool
) -> None:
    composition = Composition(*parts((3, 4, 8)))
    assert composition.exact is exact
    assert check(composition) == []


# deepinv, by objects with the same methods. The adapter was also run on nine classes of deepinv 0.5.0 itself.


class Decomposable:
    """As deepinv.physics.DecomposablePhysics: A = U diag(mask) V^T, the identity where nothing is said."""

    def __init__(self, mask: Tensor | float, V: Tensor | None = None) -> None:
        self.mask, self.matrix = mask, V

    def V(self, z: Tensor) -> Tensor:
        return z if self.matrix is None else (z.flatten(1) @ self.matrix.T).view_as(z)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x if self.matrix is None else (x.flatten(1) @ self.matrix).view_as(x)

    def U(self, z: Tensor) -> Tensor:
        return z.roll(1, -1)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return y.roll(-1, -1)

    def A(self, x: Tensor) -> Tensor:
        return self.U(self.mask * self.V_adjoint(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.mask * self.U_adjoint(y))

    def A_dagger(self, y: Tensor) -> Tensor:
        mask = torch.as_tensor(self.mask)
        return self.V(self.U_adjoint(y) * torch.where(mask.abs() > 1e-5, 1 / mask, 0.0))


class Linear:
    """As deepinv.physics.LinearPhysics, with an A_dagger that is off by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::2] + x[..., 1::2]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, -1)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.factor * y.repeat_interleave(2, -1)


def physics(name: str) -> Any:
    V = torch.linalg.qr(noise(24, 24))[0]
    mask = (noise(1, 1, 4, 6, seed=2).abs() + 0.1) * random_mask((1, 4, 6))
    return {
        "denoising": Decomposable(1.0),
        "one value": Decomposable(0.5, V),
        "values": Decomposable(mask, V),
        "negative values": Decomposable(-mask, V),
    }[name]


@pytest.mark.parametrize("name", ["denoising", "one value", "values", "negative values"])
def test_a_decomposable_physics_becomes_a_spectral_operator(name: str) -> None:
    given = physics(name)
    op, y = from_deepinv(given, (1, 4, 6), dtype=torch.float64), noise(2, 1, 4, 6)
    assert isinstance(op, SpectralOperator)
    assert check(op) == []
    assert far(op.A(y), given.A(y)) <= 1e-12
    assert far(op.At(y), given.A_adjoint(y)) <= 1e-12
    assert far(op.pinv(y), given.A_dagger(y)) <= 1e-12


def test_a_physics_whose_V_is_not_orthogonal_is_no_spectral_operator() -> None:
    op = from_deepinv(Decomposable(torch.ones(1, 1, 4, 6), 2 * torch.eye(24).double()), (1, 4, 6), dtype=torch.float64)
    assert not isinstance(op, SpectralOperator)
    assert check(op) == []


@pytest.mark.parametrize("factor", [0.5, 0.4])
def test_an_inexact_inverse_of_a_physics_is_replaced(factor: float) -> None:
    op, y = from_deepinv(Linear(factor), (1, 4, 6), dtype=torch.float64), noise(2, 1, 4, 3)
    assert check(op) == []
    assert far(op.pinv(y), 0.5 * y.repeat_interleave(2, -1)) <= 1e-12


def test_what_is_no_linear_physics_is_refused() -> None:
    class Haze:
        def A(self, x: Tensor) -> Tensor:
            return x

    class Square(Linear):
        def A(self, x: Tensor) -> Tensor:
            return x[..., ::2] ** 2

    with pytest.raises(ValueError, match="Haze has no A_adjoint: pass a linear physics of deepinv"):
        from_deepinv(Haze(), (1, 4, 6))
    with pytest.raises(ValueError, match=r"Square is not linear, A\(2 x - 3 x'\) differs from 2 A\(x\) - 3 A\(x'\)"):
        from_deepinv(Square(1.0), (1, 4, 6))
