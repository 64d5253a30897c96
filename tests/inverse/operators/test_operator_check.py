"""`check` passes a right operator and says in a sentence what is wrong with a broken one."""

from collections.abc import Callable

import pytest
import torch
from operator_values import noise
from torch import Tensor

from rddm_fast.inverse.operators import Denoising, General, Inpainting, SuperResolution, check, random_mask

IMAGE = (2, 4, 6)


class Mean(SuperResolution):
    """A right operator, of which each test breaks one method."""

    def __init__(self) -> None:
        super().__init__(IMAGE, 2)


def broken(**methods: Callable[..., object]) -> Mean:
    return type("Broken", (Mean,), methods)()


def sentences(**methods: Callable[..., object]) -> list[str]:
    return check(broken(**methods))


def only(found: list[str], beginning: str) -> None:
    """Of all sentences, those that begin so are there, and each says by how much."""
    assert any(sentence.startswith(beginning) for sentence in found), found


def test_a_right_operator_has_no_sentence() -> None:
    assert check(Mean()) == []
    assert check(Mean(), torch.float32, seed=5, batch=1) == []


def test_a_wrong_adjoint() -> None:
    found = sentences(At=lambda self, y: 1.01 * Mean.At(self, y))
    only(found, "the adjoint is wrong, <A x, y> differs from <x, At y>: by ")
    only(found, "At y differs from V S Ut y: by 9.9e-03 of its size, more than 1e-10")
    assert len(found) == 2


def test_a_pseudo_inverse_off_by_a_factor() -> None:
    found = sentences(pinv=lambda self, y: 1.25 * Mean.pinv(self, y))
    only(found, "the pseudo-inverse is wrong, A A+ A differs from A: by 2.5e-01 of its size, more than 1e-10")
    only(found, "the pseudo-inverse is wrong, A+ A A+ differs from A+: by 2.5e-01 of its size, more than 1e-10")
    only(found, "project is no projection, P P x differs from P x: by ")
    only(found, "A+ y differs from V S+ Ut y: by 2.0e-01 of its size, more than 1e-10")


def test_an_inverse_that_is_not_of_least_norm() -> None:
    def first_pixel(self: Mean, y: Tensor) -> Tensor:
        """A right inverse, A A+ y = y, that puts the whole block into one pixel."""
        x = y.new_zeros(len(y), *IMAGE)
        x[..., ::2, ::2] = 4 * y
        return x

    found = sentences(pinv=first_pixel)
    only(found, "A+ A is not symmetric, <A+ A x, x'> differs from <x, A+ A x'>: by ")
    assert not any("A A+ A differs" in sentence for sentence in found)


def test_an_inverse_that_reads_what_cannot_be_measured() -> None:
    class Twice(Denoising):
        """Each pixel measured twice; the inverse takes the first measurement only."""

        def __init__(self) -> None:
            super().__init__(IMAGE)
            self.measured = (2, 4, 12)

        def A(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], -1)

        def At(self, y: Tensor) -> Tensor:
            return y[..., :6] + y[..., 6:]

        def pinv(self, y: Tensor) -> Tensor:
            return y[..., :6]

        def Ut(self, y: Tensor) -> Tensor:
            return self.At(y).flatten(1) / 2**0.5

        def U(self, z: Tensor) -> Tensor:
            return self.A(self.V(z)) / 2**0.5

        def singulars(self, like: Tensor) -> Tensor:
            return like.new_full((1, 1), 2**0.5)

    found = check(Twice())
    only(found, "A A+ is not symmetric, <A A+ y, y'> differs from <y, A A+ y'>: by ")
    only(found, "A+ y differs from V S+ Ut y: by ")
    assert len(found) == 2


def test_what_is_not_linear() -> None:
    found = sentences(A=lambda self, x: Mean.A(self, x.clamp(-1, 1)))
    only(found, "A is not linear, A(2 x - 3 x') differs from 2 A(x) - 3 A(x'): by ")


def test_a_batch_that_is_mixed() -> None:
    def centred(self: Mean, x: Tensor) -> Tensor:
        return Mean.A(self, x - x.mean(0))

    only(sentences(A=centred), "A mixes the images of a batch, A of one image differs from its row of A of all: by ")


def test_a_projection_of_another_operator() -> None:
    found = sentences(project=lambda self, x: x)
    assert len(found) == 1
    only(found, "project(x) differs from A+ A x: by ")


@pytest.mark.parametrize(
    ("methods", "beginning"),
    [
        ({"V": lambda self, z: 2 * Mean.V(self, z)}, "V is not orthogonal, V Vt x differs from x: by 1.0e+00 of its"),
        ({"Vt": lambda self, x: 2 * Mean.Vt(self, x)}, "V is not orthogonal, Vt V z differs from z: by 1.0e+00 of its"),
        (
            {"Ut": lambda self, y: 2 * Mean.Ut(self, y)},
            "U is not orthogonal, Ut U z differs from z where a singular va",
        ),
        ({"U": lambda self, z: 2 * Mean.U(self, z)}, "A x differs from U S Vt x: by 1.0e+00 of its size, more than"),
        ({"U": lambda self, z: Mean.U(self, z.roll(1, 1) + z)}, "U z depends on coordinates of singular value 0: by "),
        ({"singulars": lambda self, x: -Mean.singulars(self, x)}, "a singular value is negative: by 1.0e+00 of its"),
        ({"singulars": lambda self, x: 2 * Mean.singulars(self, x)}, "A x differs from U S Vt x: by 1.0e+00 of its s"),
    ],
)
def test_a_wrong_decomposition(methods: dict[str, Callable[..., object]], beginning: str) -> None:
    only(sentences(**methods), beginning)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (
            {"A": lambda self, x: Mean.A(self, x).flatten(1)},
            "A of (2, 2, 4, 6) has shape (2, 12): it must be (2, 2, 2, 3)",
        ),
        (
            {"At": lambda self, y: Mean.At(self, y).float()},
            "At of torch.float64 on cpu is torch.float32 on cpu: it must keep its input's dtype and device",
        ),
        ({"pinv": lambda self, y: y / 0}, "pinv of (2, 2, 2, 3) has shape (2, 2, 2, 3): it must be (2, 2, 4, 6)"),
        ({"pinv": lambda self, y: Mean.pinv(self, y) / 0}, "pinv of a finite tensor is not finite"),
        ({"project": lambda self, x: None}, "project returns a NoneType: it must return a tensor"),
        ({"Vt": lambda self, x: x}, "Vt of (2, 2, 4, 6) has shape (2, 2, 4, 6): it must be (2, 48)"),
    ],
)
def test_a_wrong_shape_is_the_only_sentence(methods: dict[str, Callable[..., object]], sentence: str) -> None:
    assert sentences(**methods) == [sentence]


def test_an_error_becomes_a_sentence() -> None:
    def fails(self: Mean, y: Tensor) -> Tensor:
        raise RuntimeError("out of\n  memory")

    assert sentences(pinv=fails) == ["pinv of (2, 2, 2, 3) raised RuntimeError: out of memory"]


def test_a_rank_deficient_matrix_passes_and_its_transpose_as_inverse_does_not() -> None:
    op = General(IMAGE, noise(9, 3) @ noise(3, 48, seed=1))
    assert int((op.singulars(noise(1, 1)) > 0).sum()) == 3
    assert check(op) == []
    op.pinv = op.At  # type: ignore[method-assign]
    only(check(op), "the pseudo-inverse is wrong, A A+ A differs from A: by ")


def test_the_batch_is_the_operators_own() -> None:
    op = Inpainting(IMAGE, torch.stack([random_mask(IMAGE, seed=seed) for seed in range(3)]))
    assert check(op) == []
    assert check(op, batch=2) == [
        f"{name} of (2, 2, 4, 6) raised ValueError: the operator has 3 masks and the batch has 2 images: "
        "give one mask, or 2"
        for name in ("A", "At", "pinv")
    ]


def test_another_dtype_needs_a_tolerance() -> None:
    with pytest.raises(
        ValueError, match=r"dtype is torch.bfloat16: choose torch.float32 or torch.float64, or pass a tol"
    ):
        check(Mean(), torch.bfloat16)
    assert check(Mean(), torch.bfloat16, tolerance=0.1) == []
    only(check(Mean(), torch.bfloat16, tolerance=1e-9), "A is not linear")
