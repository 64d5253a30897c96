"""Does an operator keep its promises? `check(op)` says in sentences which laws fail, and by how much."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..system.errors import one_line
from .operator import Operator, SpectralOperator

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def check(
    op: Operator,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    *,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    tolerance: float | None = None,
) -> list[str]:
    """Test an operator on random images and measurements.

    The laws: shapes, linearity, <A x, y> = <x, At y>, the four of Moore and Penrose, P² = P for `project`, and for a
    `SpectralOperator` V Vt = I, Vt V = I and A = U S Vt with its consequences.

    Args:
        op: the operator.
        dtype: float32 or float64.
        seed: of the random images.
        batch: how many images; the operator's own number if it has one (a mask for each image), else 2.
        device: where to test it.
        tolerance: the largest error, as a share of the exact result's size; 1e-5 in float32, 1e-10 in float64.

    Returns:
        One sentence for each law that fails, so an empty list if all hold. After a wrong shape or an error, the tests
        that need the result are left out.

    Raises:
        ValueError: another dtype without a tolerance.
    """
    if tolerance is None:
        if dtype not in TOLERANCE:
            raise ValueError(f"dtype is {dtype}: choose torch.float32 or torch.float64, or pass a tolerance")
        tolerance = TOLERANCE[dtype]
    own = getattr(op, "batch", None)
    batch = batch or own or 2
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(device, dtype)

    x, x2, y, y2 = draw(*op.image), draw(*op.image), draw(*op.measured), draw(*op.measured)
    with torch.no_grad():
        found = _shapes(op, x, y)
        if found:
            return found
        laws = [_linear(op, x, x2), _adjoint(op, x, y), *penrose(op, x, x2, y, y2)]
        if own is None and batch > 1:
            laws.append(_one_by_one(op, x))
        laws += _projection(op, x, y)
        if isinstance(op, SpectralOperator):
            found = _spectral_shapes(op, x, y)
            if not found:
                laws += _spectral(op, x, y)
    failed = [
        f"{law}: by {error:.1e} of its size, more than {tolerance:.0e}" for law, error in laws if not error <= tolerance
    ]
    return failed + found


Law = tuple[str, float]
"""What fails if the number, a relative error, is too large."""


def penrose(op: Operator, x: Tensor, x2: Tensor, y: Tensor, y2: Tensor) -> list[Law]:
    """Return the errors of the four laws of Moore and Penrose, on two images and two measurements."""
    Ax, pinv_y = op.A(x), op.pinv(y)
    back, through = op.pinv(Ax), op.A(pinv_y)
    return [
        ("the pseudo-inverse is wrong, A A+ A differs from A", difference(op.A(back), Ax)),
        ("the pseudo-inverse is wrong, A+ A A+ differs from A+", difference(op.pinv(through), pinv_y)),
        ("A+ A is not symmetric, <A+ A x, x'> differs from <x, A+ A x'>", _symmetry(back, x, op.pinv(op.A(x2)), x2)),
        ("A A+ is not symmetric, <A A+ y, y'> differs from <y, A A+ y'>", _symmetry(through, y, op.A(op.pinv(y2)), y2)),
    ]


def difference(a: Tensor, b: Tensor) -> float:
    """Return max |a - b| / max |b|, or max |a| where b is 0; infinite if a number is not finite."""
    size = float(b.abs().max())
    error = float((a - b).abs().max()) / (size or 1.0)
    return error if error == error else float("inf")


def _symmetry(Px: Tensor, x: Tensor, Px2: Tensor, x2: Tensor) -> float:
    return _products(Px, x2, x, Px2)


def _products(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> float:
    """Return |<a, b> - <c, d>|, over the larger of |a| |b| and |c| |d|."""
    a, b, c, d = (v.double().flatten() for v in (a, b, c, d))
    size = max(float(a.norm() * b.norm()), float(c.norm() * d.norm()))
    error = abs(float(a @ b - c @ d)) / (size or 1.0)
    return error if error == error else float("inf")


def _linear(op: Operator, x: Tensor, x2: Tensor) -> Law:
    error = difference(op.A(2 * x - 3 * x2), 2 * op.A(x) - 3 * op.A(x2))
    return "A is not linear, A(2 x - 3 x') differs from 2 A(x) - 3 A(x')", error


def _adjoint(op: Operator, x: Tensor, y: Tensor) -> Law:
    return "the adjoint is wrong, <A x, y> differs from <x, At y>", _products(op.A(x), y, x, op.At(y))


def _one_by_one(op: Operator, x: Tensor) -> Law:
    return "A mixes the images of a batch, A of one image differs from its row of A of all", difference(
        op.A(x[:1]), op.A(x)[:1]
    )


def _projection(op: Operator, x: Tensor, y: Tensor) -> list[Law]:
    Ax, Px = op.A(x), op.project(x)
    # A+ enlarges the rounding of A x as it does any measurement: by 1/s, up to 1,000 for the published blurs. So the
    # errors are shares of what A+ makes of a random measurement as large as A x, if that is larger than P x.
    enlarged = float(op.pinv(y).abs().max() * Ax.abs().max() / y.abs().max())
    size = max(float(Px.abs().max()), enlarged) or 1.0
    return [
        ("project is no projection, P P x differs from P x", float((op.project(Px) - Px).abs().max()) / size),
        ("project(x) differs from A+ A x", float((Px - op.pinv(Ax)).abs().max()) / size),
    ]


def _spectral(op: SpectralOperator, x: Tensor, y: Tensor) -> list[Law]:
    s, z = op.singulars(x).expand(len(x), -1), x.flip(-1).flatten(1)  # any numbers do as coordinates
    measured = s > 0
    inverse = torch.where(measured, 1 / torch.where(measured, s, 1.0), 0.0)
    seen = torch.where(measured, z, 0.0)
    return [
        ("a singular value is negative", float(-s.min()) / (float(s.abs().max()) or 1.0)),
        ("V is not orthogonal, V Vt x differs from x", difference(op.V(op.Vt(x)), x)),
        ("V is not orthogonal, Vt V z differs from z", difference(op.Vt(op.V(z)), z)),
        (
            "U is not orthogonal, Ut U z differs from z where a singular value is not 0",
            difference(op.Ut(op.U(seen)), seen),
        ),
        ("U z depends on coordinates of singular value 0", difference(op.U(z), op.U(seen))),
        ("A x differs from U S Vt x", difference(op.U(s * op.Vt(x)), op.A(x))),
        ("At y differs from V S Ut y", difference(op.V(s * op.Ut(y)), op.At(y))),
        ("A+ y differs from V S+ Ut y", difference(op.V(inverse * op.Ut(y)), op.pinv(y))),
    ]


def _shapes(op: Operator, x: Tensor, y: Tensor) -> list[str]:
    image, measured = (len(x), *op.image), (len(x), *op.measured)
    tests = [("A", op.A, x, measured), ("At", op.At, y, image), ("pinv", op.pinv, y, image)]
    found = [sentence for name, f, given, shape in tests if (sentence := _returns(name, f, given, shape))]
    # By default `project` calls A and pinv, whose sentence it would repeat.
    last = None if found else _returns("project", op.project, x, image)
    return found if last is None else [last]


def _spectral_shapes(op: SpectralOperator, x: Tensor, y: Tensor) -> list[str]:
    c, h, w = op.image
    z = x.flatten(1)
    spectral = (len(x), c * h * w)
    tests = [
        ("Vt", op.Vt, x, spectral),
        ("V", op.V, z, (len(x), *op.image)),
        ("Ut", op.Ut, y, spectral),
        ("U", op.U, z, (len(x), *op.measured)),
        ("singulars, expanded to the batch,", lambda like: op.singulars(like) + torch.zeros_like(z), x, spectral),
    ]
    return [sentence for name, f, given, shape in tests if (sentence := _returns(name, f, given, shape))]


def _returns(name: str, f: Callable[[Tensor], Tensor], given: Tensor, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with the kind of thing that `f` returns, or None."""
    try:
        result = f(given)
    except Exception as error:  # whatever a user's operator may raise becomes a sentence
        return f"{name} of {tuple(given.shape)} raised {type(error).__name__}: {one_line(error)}"
    if not isinstance(result, Tensor):
        return f"{name} returns a {type(result).__name__}: it must return a tensor"
    if result.shape != shape:
        return f"{name} of {tuple(given.shape)} has shape {tuple(result.shape)}: it must be {shape}"
    if result.dtype != given.dtype or result.device != given.device:
        return (
            f"{name} of {given.dtype} on {given.device} is {result.dtype} on {result.device}: "
            "it must keep its input's dtype and device"
        )
    if not bool(result.isfinite().all()):
        return f"{name} of a finite tensor is not finite"
    return None
